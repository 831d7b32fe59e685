from wsplf_cli.qupath import gson


def test_what_is_no_object_or_list_counts_as_an_empty_one():
    assert gson.as_object({"a": 1}) == {"a": 1}
    assert gson.as_list([1]) == [1]
    for value in (None, 3, "text", [1]):
        assert gson.as_object(value) == {}
    for value in (None, 3, "text", {"a": 1}):
        assert gson.as_list(value) == []
