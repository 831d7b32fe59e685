/*
 * wsplf: export the annotations of the open image as GeoJSON, PROJECT/geojson/IMAGE-NAME.geojson
 * QuPath 0.4 to 0.7. wsplf export does it for a whole project without QuPath.
 * Headless: QuPath script --project P.qpproj --image NAME --args FOLDER wsplf_export_geojson.groovy
 */
def folder = buildFilePath(PROJECT_BASE_DIR, 'geojson')  // made if needed

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

def entry = getProjectEntry()
if (entry == null) {
    say('Open an image of a project first.')
    return
}
if (binding.hasVariable('args') && args) folder = args[0]
mkdirs(folder)
def safe = { image -> image.getImageName().replaceAll(/[\\\/:*?"<>|]/, '_') }
def name = safe(entry)
def alike = getProject().getImageList().count { safe(it).equalsIgnoreCase(name) }
if (alike > 1) name += "_id${entry.getID()}"  // as wsplf export does where files would have one name
def file = new File(folder, name + '.geojson')
def annotations = getAnnotationObjects()
exportObjectsToGeoJson(annotations, file.getPath(), 'FEATURE_COLLECTION')
say("${annotations.size()} annotations written to ${file.getPath()}")
