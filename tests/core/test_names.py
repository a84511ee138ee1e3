from robustcls.core.names import quoted, readable, some_of, without_names


def test_readable_names_can_be_written_everywhere():
    assert readable("café/猫.png") == "café/猫.png"
    assert readable("caf\udce9.png") == "caf\\xe9.png"
    assert readable("\udce7\udc8c\udcab") == "猫"  # UTF-8 bytes read under another locale


def test_names_are_taken_out_of_texts_again():
    names = ["a.png", "it's “b”.png", "c.png", "d.png"]
    text = f"2 skipped: {some_of(names, 3)}; the user's own note"
    assert text == "2 skipped: “a.png”, “it's \"b\".png”, “c.png” and 1 more; the user's own note"
    assert without_names(text) == "2 skipped: “…”, “…”, “…” and 1 more; the user's own note"
    assert without_names(quoted("x\udce9")) == "“…”"
