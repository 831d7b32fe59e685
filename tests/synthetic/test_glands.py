import numpy as np

from wsplf_cli.synthetic import zones
from wsplf_cli.synthetic.glands import empty_layout, fill_zone
from wsplf_cli.synthetic.kinds import EPITHELIUM, LUMEN


def test_glands_of_a_plan_keep_their_gap():
    rng = np.random.default_rng(4)
    zone = zones.ducts(rng)
    layout = empty_layout((300, 300), 1.0)
    fill_zone(rng, layout, zone=zone, where=np.ones((300, 300), bool))
    gland = np.array([kind.structure in (EPITHELIUM, LUMEN) for kind in layout.kinds])[layout.kind]
    assert (gland == (layout.instance > 0)).all()
    right, left = layout.instance[:, 3:], layout.instance[:, :-3]
    assert not ((right != left) & (right > 0) & (left > 0)).any()
