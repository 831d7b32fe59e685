/*
 * wsplf: reject the selected polygons: there is nothing of their class here. They are kept, in grey, as background
 * for wsplf train, and nothing is drawn there again. Better than deleting: the decision stays visible.
 * QuPath 0.4 to 0.7. Accept takes it back.
 * Headless: QuPath script --project P.qpproj --image NAME --args ID,ID wsplf_reject_selected.groovy
 */
def grey = 140  // 0 black to 255 white

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
    mark(it, 'wsplf.review', 'rejected')
    it.setColor(grey, grey, grey)
}
getCurrentHierarchy().fireObjectsChangedEvent(this, own)
if (getQuPath() == null && own) getProjectEntry().saveImageData(getCurrentImageData())
def then = getQuPath() == null ? 'Saved.' : 'Save the image when you are done.'
say(own ? "${own.size()} rejected. $then"
    : 'Select polygons that wsplf made; what you drew yourself you can simply delete.')
