/*
 * wsplf: make a pixel classifier of a model that "wsplf model export --format onnx" wrote.
 * QuPath 0.5 to 0.7. It runs live in QuPath, without Python: Classify > Pixel classification > Load pixel classifier.
 * The classifier is saved in the project, under classifiers/pixel_classifiers; the model stays where it is.
 * Headless: QuPath script --project P.qpproj --image ANY --args /path/model.onnx wsplf_apply_model.groovy
 *
 * Checked without a QuPath: all classes and methods are in the sources of QuPath 0.5.1, 0.6.0 and 0.7.0, and the OpenCV
 * of each (4.6, 4.10, 4.11) gives the network's probabilities outside of QuPath. Not checked: a run in QuPath's window.
 * So the script first compares what this QuPath computes with what the model computed when it was exported.
 * QuPath's windows overlap by a quarter and are not blended: outlines differ a little from those of "wsplf segment".
 */
def model = ''       // path of model.onnx, with model.onnx.json beside it; empty: you are asked
def name = ''        // name of the classifier; empty: "wsplf" and the name of the model's folder
def replace = false  // replace a classifier of this name

import java.awt.image.BufferedImage
import qupath.lib.images.servers.ImageServerMetadata
import qupath.lib.images.servers.PixelCalibration
import qupath.lib.images.servers.PixelType
import qupath.lib.io.GsonTools
import qupath.lib.regions.Padding
import qupath.opencv.dnn.OpenCVDnn
import qupath.opencv.ml.PatchClassifierParams
import qupath.opencv.ops.ImageOps
import qupath.opencv.tools.OpenCVTools

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

// the largest difference from the probabilities in model.onnx.json; NaN where this OpenCV gives none
def difference(network, check) {
    def side = check['side_px'] as int
    def image = new BufferedImage(side, side, BufferedImage.TYPE_INT_RGB)
    side.times { y ->
        side.times { x ->
            def red = (3 * x + y) % 256
            def green = (x + 2 * y + 40) % 256
            def blue = (2 * x + 3 * y + 80) % 256
            image.setRGB(x, y, (red << 16) | (green << 8) | blue)
        }
    }
    def mat = ImageOps.Core.ensureType(PixelType.FLOAT32).apply(OpenCVTools.imageToMat(image))
    def values = OpenCVTools.extractFloats(ImageOps.ML.dnn(network, side, side, Padding.empty()).apply(mat))
    def classes = check['diagonal'].size()
    def step = Math.max(1, side.intdiv(16))
    def worst = 0.0d
    check['diagonal'].eachWithIndex { expected, channel ->
        expected.eachWithIndex { probability, index ->
            def pixel = index * step
            def distance = Math.abs(values[(pixel * side + pixel) * classes + channel] - (probability as double))
            worst = Double.isNaN(distance) ? distance : Math.max(worst, distance)
        }
    }
    return worst
}

def project = getProject()
if (project == null) {
    say('Open a project first.')
    return
}
if (binding.hasVariable('args') && args) model = args[0]
def file = model ? new File(model) : getQuPath() == null ? null : promptForFile('onnx')
if (file == null) {
    say('No model was chosen.')
    return
}
def description = new File(file.getPath() + '.json')
if (!file.isFile() || !description.isFile()) {
    say("${file.getPath()} is not there, or ${description.getName()} is not beside it: wsplf model export writes both.")
    return
}
def about = GsonTools.getInstance().fromJson(description.getText('UTF-8'), Map.class)
name = name ?: 'wsplf ' + file.getAbsoluteFile().getParentFile().getName()
def classifiers = project.getPixelClassifiers()
if (classifiers.contains(name) && !replace) {
    say("There is a classifier called $name; write another name, or replace = true, at the top of the script.")
    return
}

def network = OpenCVDnn.builder(file.getAbsolutePath()).name(name).build()
def worst = difference(network, about['check'])
if (!(worst <= 0.01d)) {
    say("The OpenCV of this QuPath computes other probabilities than the model (by $worst): nothing was saved.")
    return
}
def multiple = about['multiple_px'] as int
def side = Math.ceil((about['tile_px'] as double) / multiple) as int
side *= multiple
def halo = side.intdiv(8)
def threshold = about['threshold'] as double
// a background that has the threshold as its probability: a pixel belongs to a class that is above it
def background = ImageOps.Core.sequential(
    ImageOps.Channels.extract(0), ImageOps.Core.multiply(0.0d), ImageOps.Core.add(threshold))
def names = ['Ignore*'] + about['classes']
def resolution = new PixelCalibration.Builder()
    .pixelSizeMicrons(about['mpp'] as double, about['mpp'] as double)
    .build()
def params = PatchClassifierParams.builder()
    .inputChannels(0, 1, 2)
    .inputResolution(resolution)
    .patchSize(side)
    .halo(halo)
    .prediction(network, Padding.symmetric(halo))
    .postprocessing(ImageOps.Core.splitMerge(background, ImageOps.Core.identity()))
    .outputChannelType(ImageServerMetadata.ChannelType.PROBABILITY)
    .outputClassNames(names as String[])
    .build()
classifiers.put(name, PatchClassifierParams.buildPixelClassifier(params))
say("$name: ${about['classes'].join(', ')} at ${about['mpp']} um per pixel. Classify > Pixel classification > Load " +
    'pixel classifier shows it.')
