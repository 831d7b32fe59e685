"""Windows to learn from: the newest lists are in use, and they are the same after a stop."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wsplf_cli.pretraining import window_pool


def test_windows_in_use_are_the_newest_lists_and_the_next_is_made_ahead(tmp_path, monkeypatch):
    made = []

    def windows_of_list(folder, *, seed):
        made.append(seed)
        return [seed]

    monkeypatch.setattr(window_pool, "windows_of_list", windows_of_list)
    monkeypatch.setattr(window_pool, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    monkeypatch.setattr(window_pool, "FIRST_LISTS", 2)
    monkeypatch.setattr(window_pool, "LISTS_IN_USE", 3)
    with window_pool.WindowPool(tmp_path / "windows", seed=7) as pool:
        assert pool.at(0) == pool.at(99) == [(7, 0), (7, 1)]
        assert pool.at(100) == [(7, 0), (7, 1), (7, 2)]
        assert pool.at(200) == [(7, 1), (7, 2), (7, 3)]
    assert made == [(7, part) for part in range(5)]
    with window_pool.WindowPool(tmp_path / "windows", seed=7) as pool:  # after a stop
        assert pool.at(200) == [(7, 1), (7, 2), (7, 3)]


def test_windows_are_kept_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(window_pool, "NEW_WINDOWS", 2)
    first = window_pool.windows_of_list(tmp_path, seed=(3, 0))
    monkeypatch.setattr(window_pool, "generate_windows", None)
    again = window_pool.windows_of_list(tmp_path, seed=(3, 0))
    for window, other in zip(first, again, strict=True):
        for name in window_pool.MAPS:
            np.testing.assert_array_equal(getattr(window, name), getattr(other, name))
