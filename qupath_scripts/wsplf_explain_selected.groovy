/*
 * wsplf: show in the browser why wsplf drew the selected polygon.
 * QuPath 0.5 to 0.7. Save the image first: wsplf reads the project's files.
 * Headless, with the id of a polygon, it prints where the page is:
 * QuPath script --project P.qpproj --image NAME --args ID wsplf_explain_selected.groovy
 */
def command = ['wsplf']  // where QuPath does not find it: its whole path, or ['/path/python', '-m', 'wsplf_cli']

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

def project = getProject()
def selected = getSelectedObject()
def id = binding.hasVariable('args') && args ? args[0] : selected?.getID()?.toString()
if (project == null || id == null) {
    say('Open an image of a project and select a polygon first.')
    return
}
def gui = getQuPath()
if (gui != null && getCurrentImageData()?.isChanged()) println 'the image has changes that are not saved'
def page = java.nio.file.Files.createTempDirectory('wsplf').resolve(id + '.html').toFile()
def work = {
    def line = [*command, 'explain', project.getPath().toString(), id, '--out', page.getPath()]*.toString()
    println line.join(' ')
    def code = -1
    def last = ''
    try {
        def process = new ProcessBuilder(line).redirectErrorStream(true).start()
        process.getOutputStream().close()
        process.getInputStream().eachLine('UTF-8') {
            println it
            if (it.startsWith('error: ')) last = it
        }
        code = process.waitFor()
    } catch (IOException problem) {
        last = "cannot run ${command[0]}: ${problem.getMessage()}; write its whole path at the top of the script"
    }
    if (code != 0) say(last ?: "wsplf explain ended with $code, see the log")
    else if (gui == null) say(page.getPath())
    else javafx.application.Platform.runLater { gui.openInBrowser(page.toURI().toString()) }
}
// from a menu a script runs on QuPath's own thread, which must not wait
if (gui != null && javafx.application.Platform.isFxApplicationThread()) new Thread(work, 'wsplf').start()
else work()
