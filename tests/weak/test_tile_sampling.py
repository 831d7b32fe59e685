import numpy as np

from wsplf_cli.weak.mil.tile_sampling import choose, due, unseen


def test_tiles_never_seen_come_first_then_the_highest() -> None:
    rng = np.random.default_rng(0)
    seen = np.array([0.0, np.inf, 5.0, -1.0, np.inf, 1.0, 2.0, -3.0], np.float32)
    chosen = choose(seen, 4, rng=rng)
    assert {1, 4} <= set(chosen.tolist())
    assert len(set(chosen.tolist())) == 4
    assert choose(seen, 99, rng=rng).tolist() == list(range(8))


def test_a_tile_known_not_to_have_been_looked_at_is_left_to_chance() -> None:
    rng = np.random.default_rng(0)
    seen = np.full(100, -np.inf, np.float32)
    seen[[7, 70]] = 1.0, 2.0
    turns = [choose(seen, 4, rng=rng) for _ in range(20)]
    assert all({7, 70} <= set(chosen.tolist()) for chosen in turns)
    assert len({index for chosen in turns for index in chosen.tolist()}) > 20


def test_all_tiles_have_their_turn_those_seen_longest_ago_first() -> None:
    rng, state = np.random.default_rng(0), unseen(10)
    state.note(np.array([0, 1, 2]), np.zeros(3, np.float32), epoch=0)
    found = []
    for epoch in (1, 2, 3):
        index = due(state, 4, rng=rng)
        state.note(index, np.ones(4, np.float32), epoch=epoch)
        found.append(set(index.tolist()))
    assert found[0] | found[1] >= {3, 4, 5, 6, 7, 8, 9}
    assert found[0] | found[1] | found[2] == set(range(10))
    assert due(state, 99, rng=rng).tolist() == list(range(10))
