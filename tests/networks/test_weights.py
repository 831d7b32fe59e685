"""Known weights: SAM checkpoints that a user brings, and the files that ship."""

import pytest

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks import weights


def test_tiny_needs_no_checkpoint_and_the_others_do():
    weights.check_sam("tiny", checkpoint=None)
    with pytest.raises(ConfigError, match="vit_b needs its checkpoint") as caught:
        weights.check_sam("vit_b", checkpoint=None)
    assert "sam_vit_b_01ec64.pth" in caught.value.hint


def test_incomplete_checkpoint_names_both_sizes(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(b"x" * 10)
    with pytest.raises(ConfigError, match=r"10 bytes, .* has 375042383"):
        weights.check_sam("vit_b", checkpoint=path)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "sam_vit_h_4b8939.pth"
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match="checkpoint of vit_h, not vit_b"):
        weights.check_sam("vit_b", checkpoint=path)


def test_missing_checkpoint_is_refused_and_a_tuned_one_is_not(tmp_path):
    with pytest.raises(ConfigError, match="no SAM checkpoint"):
        weights.check_sam("vit_b", checkpoint=tmp_path / "none.pth")
    (tmp_path / "tuned.pth").write_bytes(b"x")
    weights.check_sam("vit_b", checkpoint=tmp_path / "tuned.pth")


def test_the_shipped_files_are_the_ones_listed():
    assert weights.damaged() == []
    on_disk = {path.name: path.stat().st_size for path in weights.ASSETS.glob("*.safetensors")}
    assert set(weights.shipped()) == set(on_disk)
    assert max(on_disk.values()) <= 8 * 2**20


def test_a_changed_or_missing_file_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    assert weights.damaged() == ["SHA256SUMS is missing"]
    (tmp_path / "a.safetensors").write_bytes(b"abc")
    digest = weights.sha256(tmp_path / "a.safetensors")
    (tmp_path / weights.SUMS).write_text(f"{digest}  a.safetensors\n{'0' * 64}  b\n")
    assert weights.damaged() == ["b is missing"]
    (tmp_path / "a.safetensors").write_bytes(b"abd")
    assert weights.damaged() == ["a.safetensors is not the file that was shipped", "b is missing"]
