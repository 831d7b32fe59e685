"""Where wsplf keeps its files."""

from wsplf_cli.runs.layout import cam_file, cam_files


def test_a_class_in_a_file_name_comes_back_whatever_its_name(tmp_path):
    (tmp_path / "cams").mkdir()
    for name in ("Tumor: A/B*", "Überzug", ""):
        cam_file(tmp_path, "1", name).write_bytes(b"")
    cam_file(tmp_path, "11", "LUAD").write_bytes(b"")
    files = cam_files(tmp_path, "1")
    assert set(files) == {"Tumor: A/B*", "Überzug", ""}
    assert files[""] == tmp_path / "cams" / "1.png"
