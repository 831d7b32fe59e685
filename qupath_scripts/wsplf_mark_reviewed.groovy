/*
 * wsplf: mark the open image as reviewed: what is annotated now is right, and the rest of its tissue is background.
 * QuPath 0.4 to 0.7. Saves the image; wsplf then learns from all of it and no longer writes into it.
 * Headless: QuPath script --project P.qpproj --image NAME --args "A. Person" wsplf_mark_reviewed.groovy
 */
def person = System.getProperty('user.name')  // who reviewed it
def reviewed = true                           // false (or --args no): remove the mark

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

def entry = getProjectEntry()
if (entry == null) {
    say('Open an image of a project first.')
    return
}
if (binding.hasVariable('args') && args) {
    reviewed = args[0] != 'no'
    person = args[0]
}
def key = 'wsplf.reviewed'
def value = "${java.time.LocalDate.now()} ${person}".toString()
if (reviewed) {
    entry.saveImageData(getCurrentImageData())  // the mark refers to the saved image
    // getMetadata() is there from QuPath 0.6 on
    if (entry.respondsTo('getMetadata')) entry.getMetadata().put(key, value)
    else entry.putMetadataValue(key, value)
} else {
    if (entry.respondsTo('getMetadata')) entry.getMetadata().remove(key)
    else entry.removeMetadataValue(key)
}
getProject().syncChanges()
if (getQuPath() != null) javafx.application.Platform.runLater { getQuPath().refreshProject() }
say(reviewed ? "${entry.getImageName()}: saved, reviewed $value; ${getAnnotationObjects().size()} annotations"
    : "${entry.getImageName()}: no longer marked as reviewed")
