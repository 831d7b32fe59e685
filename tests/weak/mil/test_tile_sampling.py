import numpy as np

from wsplf_cli.weak.mil.tile_sampling import TileScores, sample_hard, sample_stalest


def test_tiles_without_a_score_come_first_then_the_highest() -> None:
    rng = np.random.default_rng(0)
    logits = np.array([0.0, np.inf, 5.0, -1.0, np.inf, 1.0, 2.0, -3.0], np.float32)
    indices = sample_hard(logits, 4, rng=rng)
    assert {1, 4} <= set(indices.tolist())
    assert len(set(indices.tolist())) == 4
    assert sample_hard(logits, 99, rng=rng).tolist() == list(range(8))


def test_tiles_of_the_lowest_score_are_left_to_chance() -> None:
    rng = np.random.default_rng(0)
    logits = np.full(100, -np.inf, np.float32)
    logits[[7, 70]] = 1.0, 2.0
    samples = [sample_hard(logits, 4, rng=rng) for _ in range(20)]
    assert all({7, 70} <= set(indices.tolist()) for indices in samples)
    assert len({index for indices in samples for index in indices.tolist()}) > 20


def test_all_tiles_have_their_turn_those_with_the_oldest_scores_first() -> None:
    rng, scores = np.random.default_rng(0), TileScores.unscored(10)
    scores.update(np.array([0, 1, 2]), np.zeros(3, np.float32), epoch=0)
    samples = []
    for epoch in (1, 2, 3):
        indices = sample_stalest(scores, 4, rng=rng)
        scores.update(indices, np.ones(4, np.float32), epoch=epoch)
        samples.append(set(indices.tolist()))
    assert samples[0] | samples[1] >= {3, 4, 5, 6, 7, 8, 9}
    assert samples[0] | samples[1] | samples[2] == set(range(10))
    assert sample_stalest(scores, 99, rng=rng).tolist() == list(range(10))
