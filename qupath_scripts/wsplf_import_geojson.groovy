/*
 * wsplf: add annotations from GeoJSON to the open image, PROJECT/geojson/IMAGE-NAME.geojson
 * QuPath 0.4 to 0.7. Existing objects stay; an object with the id of an existing one is not added.
 * Headless: QuPath script --project P.qpproj --image NAME --args FILE wsplf_import_geojson.groovy
 */
def folder = buildFilePath(PROJECT_BASE_DIR, 'geojson')  // where wsplf_export_geojson writes

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

def entry = getProjectEntry()
if (entry == null) {
    say('Open an image of a project first.')
    return
}
def safe = { image -> image.getImageName().replaceAll(/[\\\/:*?"<>|]/, '_') }
def name = safe(entry)
def alike = getProject().getImageList().count { safe(it).equalsIgnoreCase(name) }
if (alike > 1) name += "_id${entry.getID()}"  // as wsplf export does where files would have one name
def file = new File(folder, name + '.geojson')
if (binding.hasVariable('args') && args) file = new File(args[0])
if (!file.isFile()) {
    say("There is no ${file.getPath()}")
    return
}
def before = getAllObjects(false) as List
def known = before.collect { it.getID() } as Set
def there = new IdentityHashMap()
before.each { there.put(it, true) }
importObjectsFromFile(file.getPath())
def added = getAllObjects(false).findAll { !there.containsKey(it) }
def again = added.findAll { it.getID() in known }
removeObjects(again, true)
if (getQuPath() == null && added.size() > again.size()) entry.saveImageData(getCurrentImageData())
say("${added.size() - again.size()} objects added from ${file.getName()}, ${again.size()} were there already")
