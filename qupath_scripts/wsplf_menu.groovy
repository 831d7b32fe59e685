/*
 * wsplf: put the review scripts into QuPath's menu Extensions > wsplf, with keys, until QuPath is closed.
 * QuPath 0.4 to 0.7. Without it, each is under Automate > Project scripts, and Run starts it.
 */
def keys = [                                // script: its key; '' for none
    wsplf_next_pending      : 'shortcut+alt+n',
    wsplf_accept_selected   : 'shortcut+alt+a',
    wsplf_reject_selected   : 'shortcut+alt+r',
    wsplf_accept_all_pending: '',
    wsplf_mark_reviewed     : '',
    wsplf_set_slide_label   : '',
    wsplf_explain_selected  : '',
    wsplf_apply_model       : '',
    wsplf_run               : '',
]

def gui = getQuPath()
if (gui == null) {
    println 'This is for QuPath with its window; headless there is no menu.'
    return
}
def found = keys.findAll { new File(buildFilePath(PROJECT_BASE_DIR, 'scripts', it.key + '.groovy')).isFile() }
found.each { name, key ->
    def path = 'Extensions>wsplf>' + name.replaceFirst('wsplf_', '').replace('_', ' ').capitalize()
    gui.installGroovyCommand(path, new File(buildFilePath(PROJECT_BASE_DIR, 'scripts', name + '.groovy')))
    if (key) gui.setAccelerator(path, key)
}
def text = "${found.size()} commands are under Extensions > wsplf"
println text
Dialogs.showInfoNotification('wsplf', text)
