/*
 * wsplf: go to the next polygon to review, the least certain first.
 * QuPath 0.4 to 0.7. Selects it and zooms to it; run it again to go on without deciding.
 * Headless it lists what is pending: QuPath script --project P.qpproj --image NAME wsplf_next_pending.groovy
 */
def origins = ['pseudolabel', 'prediction']  // whose polygons to review
def margin = 2.5                             // size of the view, in sizes of the polygon
def measurement = 'wsplf: confidence'

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

// getMetadata() is public from QuPath 0.5 on
def marks(object) {
    object.respondsTo('getMetadata') ? object.getMetadata() : object.getUnmodifiableMetadataMap()
}

def isPending(object, origins) {
    def kept = marks(object)
    def pathClass = object.getPathClass() == null ? '' : object.getPathClass().toString()
    return kept['wsplf.origin'] in origins && kept['wsplf.review'] == 'pending' && !object.isLocked() &&
        pathClass == kept['wsplf.class'] && (object.getName() ?: '') == (kept['wsplf.name'] ?: '')
}

def confidence(object, measurement) {
    def value = object.getMeasurementList().get(measurement)
    return Double.isNaN(value) ? 0.0d : value
}

if (getCurrentHierarchy() == null) {
    say('Open an image first.')
    return
}
def pending = getAnnotationObjects().findAll { isPending(it, origins) }.sort { confidence(it, measurement) }
if (!pending) {
    say('Nothing is left to review in this image.')
    return
}
def next = pending[(pending.indexOf(getSelectedObject()) + 1) % pending.size()]
if (getQuPath() == null) {
    pending.each { println "${it.getID()} ${it.getPathClass()} ${confidence(it, measurement)}" }
} else {
    def selection = getCurrentHierarchy().getSelectionModel()  // read here: only this thread knows the open image
    def viewer = getCurrentViewer()
    def roi = next.getROI()
    javafx.application.Platform.runLater {
        selection.setSelectedObject(next)
        viewer.setZPosition(roi.getZ())
        viewer.setTPosition(roi.getT())
        def wide = roi.getBoundsWidth() / Math.max(viewer.getView().getWidth(), 1.0d)
        def high = roi.getBoundsHeight() / Math.max(viewer.getView().getHeight(), 1.0d)
        viewer.setDownsampleFactor(Math.max(0.25d, margin * Math.max(wide, high)))
        viewer.setCenterPixelLocation(
            roi.getBoundsX() + roi.getBoundsWidth() / 2, roi.getBoundsY() + roi.getBoundsHeight() / 2)
    }
}
say(sprintf('%d to review; this one: %s, confidence %.2f',
    pending.size(), next.getPathClass(), confidence(next, measurement)))
