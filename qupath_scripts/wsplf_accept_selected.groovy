/*
 * wsplf: accept the selected polygons: they are right as they are now, and truth for wsplf train.
 * QuPath 0.4 to 0.7. They are locked, so that they are not changed by accident (the list shows a padlock).
 * Headless: QuPath script --project P.qpproj --image NAME --args ID,ID wsplf_accept_selected.groovy
 */
def lock = true  // false: they can still be edited

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

// getMetadata() is public from QuPath 0.5 on
def marks(object) {
    object.respondsTo('getMetadata') ? object.getMetadata() : object.getUnmodifiableMetadataMap()
}

def mark(object, key, value) {
    if (object.respondsTo('getMetadata')) object.getMetadata().put(key, value)
    else object.storeMetadataValue(key, value)
}

if (getCurrentHierarchy() == null) {
    say('Open an image first.')
    return
}
def ids = binding.hasVariable('args') && args ? args.join(',').split(',')*.trim() : []
def chosen = ids ? getAnnotationObjects().findAll { it.getID().toString() in ids } : getSelectedObjects()
def own = chosen.findAll { it.isAnnotation() && marks(it)['wsplf.origin'] in ['pseudolabel', 'prediction'] }
own.each {
    if (marks(it)['wsplf.review'] == 'rejected') it.setColor(null as Integer)  // the grey of a rejected one
    mark(it, 'wsplf.review', 'accepted')
    if (lock) it.setLocked(true)
}
getCurrentHierarchy().fireObjectsChangedEvent(this, own)
if (getQuPath() == null && own) getProjectEntry().saveImageData(getCurrentImageData())
def then = getQuPath() == null ? 'Saved.' : 'Save the image when you are done.'
say(own ? "${own.size()} accepted. $then"
    : 'Select polygons that wsplf made; what you drew yourself is truth already.')
