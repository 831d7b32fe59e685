/*
 * wsplf: set the slide label of the open image.
 * QuPath 0.4 to 0.7. In QuPath it asks which one; the label is what wsplf learns from.
 * Headless: QuPath script --project P.qpproj --image NAME --args tumor wsplf_set_slide_label.groovy
 */
def labels = ['tumor', 'normal']  // the choices; the first is the default
def key = 'label'                 // the metadata key, as in: wsplf labels --label-key

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

def entry = getProjectEntry()
if (entry == null) {
    say('Open an image of a project first.')
    return
}
def given = binding.hasVariable('args') && args ? args as List : []
def label = given ? given[0] : labels[0]
if (!given && getQuPath() != null) {
    label = Dialogs.showChoiceDialog('wsplf', "Slide label of ${entry.getImageName()}", labels, label)
    if (label == null) return
}
// getMetadata() is there from QuPath 0.6 on
def before = entry.respondsTo('getMetadata') ? entry.getMetadata().get(key) : entry.getMetadataValue(key)
if (entry.respondsTo('getMetadata')) entry.getMetadata().put(key, label)
else entry.putMetadataValue(key, label)
getProject().syncChanges()
if (getQuPath() != null) javafx.application.Platform.runLater { getQuPath().refreshProject() }
say("${entry.getImageName()}: $key = $label (was: ${before ?: 'not set'})")
