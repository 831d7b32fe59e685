import numpy as np

from wsplf_cli.synthetic.noise import fibres, scatter, smooth


def test_scattered_points_lie_on_allowed_pixels_and_keep_their_distance():
    allowed = np.zeros((120, 90), bool)
    allowed[20:100, 10:70] = True
    points = scatter(np.random.default_rng(0), allowed, spacing_px=5.0)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e3 * np.eye(len(points))
    assert distance.min() >= 5.0
    assert allowed[np.rint(points[:, 1]).astype(int).clip(20, 99), np.rint(points[:, 0]).astype(int).clip(10, 69)].all()
    assert len(points) > 80 * 60 / 5.0**2 * 0.5


def test_nothing_allowed_gives_no_points():
    assert scatter(np.random.default_rng(0), np.zeros((9, 9), bool), spacing_px=2.0).shape == (0, 2)


def test_smooth_noise_has_unit_spread_and_varies_over_its_period():
    field = smooth(np.random.default_rng(1), (400, 300), 10.0)
    assert field.shape == (400, 300)
    assert 0.8 < field.std() < 1.2
    assert np.abs(np.diff(field, axis=0)).mean() < 0.3 < np.abs(field[10:] - field[:-10]).mean()


def test_fibre_angle_follows_the_flow():
    flow = fibres(np.random.default_rng(2), (200, 200), mpp=1.0, width_um=3.0, wave_um=300.0)
    rows, columns = np.array([100, 60, 150]), np.array([90, 120, 40])
    angle = flow.angle(rows, columns)
    ahead = flow.across[np.rint(rows + 4 * np.sin(angle)).astype(int), np.rint(columns + 4 * np.cos(angle)).astype(int)]
    aside = flow.across[np.rint(rows + 4 * np.cos(angle)).astype(int), np.rint(columns - 4 * np.sin(angle)).astype(int)]
    here = flow.across[rows, columns]
    assert (np.abs(ahead - here) < 0.4 * np.abs(aside - here)).all()
