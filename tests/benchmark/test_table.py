from wsplf_cli.benchmark import table


def test_a_cell_is_the_mean_with_its_spread():
    figure = table.FIGURES[0]
    assert table.cell(figure, (0.5, 0.7)) == "0.600 ± 0.141"
    assert table.cell(figure, (0.5,)) == "0.500"
    assert table.cell(figure, ()) == ""
