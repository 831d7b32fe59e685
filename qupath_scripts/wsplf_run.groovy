/*
 * wsplf: run wsplf on this project and show the new polygons.
 * QuPath 0.4 to 0.7. Open images are saved first and read again afterwards; the output is in the log.
 * Headless, without --save:
 * QuPath script --project P.qpproj --image ANY --args "pseudolabel --seed 1" wsplf_run.groovy
 */
def command = ['wsplf']      // where QuPath does not find it: its whole path, or ['/path/python', '-m', 'wsplf_cli']
def stage = ['pseudolabel']  // what to run, with options: ['segment', '--model', 'default'], ['train'], ...

def say(text) {
    println text
    if (getQuPath() != null) Dialogs.showInfoNotification('wsplf', text)
}

def project = getProject()
if (project == null) {
    say('Open a project first.')
    return
}
if (binding.hasVariable('args') && args) stage = args.join(' ').trim().split(/\s+/) as List
def gui = getQuPath()
def viewers = gui == null ? [] : (gui.respondsTo('getAllViewers') ? gui.getAllViewers() : gui.getViewers()) as List
def shown = viewers.findAll { it.getImageData() != null && project.getEntry(it.getImageData()) != null }
    .collectEntries { [it, it.getImageData()] }
def changed = shown.values().findAll { it.isChanged() }
if (changed) {
    def names = changed.collect { project.getEntry(it).getImageName() }.join(', ')
    if (!Dialogs.showConfirmDialog('wsplf', "Save the changes to $names, then run ${stage[0]}?")) return
    changed.each { project.getEntry(it).saveImageData(it) }
}
project.syncChanges()

def reload = { viewer, data ->
    def entry = project.getEntry(data)
    if (!viewer.getImageData().is(data)) return  // another image is shown there by now
    if (data.isChanged()) {
        say("${entry.getImageName()} was changed meanwhile and is not read again. Do not save it: File > Reload data.")
        return
    }
    viewer.setImageData(entry.readImageData())
}
def work = {
    def line = [*command, stage[0], project.getPath().toString(), *stage.drop(1)]*.toString()
    println line.join(' ')
    def code = -1
    try {
        def process = new ProcessBuilder(line).redirectErrorStream(true).start()
        process.getOutputStream().close()
        process.getInputStream().eachLine('UTF-8') { println it }
        code = process.waitFor()
    } catch (IOException problem) {
        println "cannot run ${command[0]}: ${problem.getMessage()}; write its whole path at the top of the script"
    }
    if (gui != null) javafx.application.Platform.runLater { shown.each(reload) }
    say(code == 0 ? "wsplf ${stage[0]}: done" : "wsplf ${stage[0]}: ended with $code, see the log")
}
// from a menu a script runs on QuPath's own thread, which must not wait
if (gui != null && javafx.application.Platform.isFxApplicationThread()) new Thread(work, 'wsplf').start()
else work()
