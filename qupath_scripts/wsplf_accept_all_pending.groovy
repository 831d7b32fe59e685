/*
 * wsplf: accept all polygons of this image that are still pending.
 * QuPath 0.4 to 0.7. Polygons that were rejected, locked, renamed or given another class stay as they are, and so do
 * disputed ones, on which readers disagree: decide on each of them.
 * Headless: QuPath script --project P.qpproj --image NAME wsplf_accept_all_pending.groovy
 */
def origins = ['pseudolabel', 'prediction']  // whose polygons; --args prediction: only those
def lock = true                              // false: they can still be edited

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

def isPending(object, origins) {
    def kept = marks(object)
    def pathClass = object.getPathClass() == null ? '' : object.getPathClass().toString()
    return kept['wsplf.origin'] in origins && kept['wsplf.review'] == 'pending' && !object.isLocked() &&
        !kept['wsplf.disputed'] &&
        pathClass == kept['wsplf.class'] && (object.getName() ?: '') == (kept['wsplf.name'] ?: '')
}

if (getCurrentHierarchy() == null) {
    say('Open an image first.')
    return
}
if (binding.hasVariable('args') && args) origins = args as List
def pending = getAnnotationObjects().findAll { isPending(it, origins) }
pending.each {
    mark(it, 'wsplf.review', 'accepted')
    if (lock) it.setLocked(true)
}
getCurrentHierarchy().fireObjectsChangedEvent(this, pending)
if (getQuPath() == null && pending) getProjectEntry().saveImageData(getCurrentImageData())
def then = getQuPath() == null ? 'Saved.' : 'Save the image when you are done.'
say(pending ? "${pending.size()} accepted. $then"
    : 'Nothing was pending in this image.')
