from csv_cleaner import clean


def cleaned(data, **options):
    found, *batches = clean(data, **options)
    return found, [row for batch in batches for row in batch]


def test_trims_and_drops_what_is_empty():
    found, rows = cleaned(b" a , ,b\r\n,,\r\n 1,,\xc2\xa02 \r\n\r\n")
    assert rows == [["a", "b"], ["1", "2"]]
    assert (found["empty_rows"], found["empty_columns"], found["rows"]) == (2, 1, 1)


def test_finds_separator_and_encoding():
    for separator in ",;\t|":
        found, rows = cleaned(f'name{separator}city\nZoë{separator}"a, b; c|d"\n'.encode("cp1252"))
        assert rows == [["name", "city"], ["Zoë", "a, b; c|d"]]
        assert (found["separator"], found["encoding"]) == (separator, "cp1252")
    assert cleaned("\ufeffa;b\n1;2\n".encode())[0]["encoding"] == "utf-8-sig"
    assert cleaned("a\tb\n1\t2\n".encode("utf-16"))[1] == [["a", "b"], ["1", "2"]]


def test_quoted_cells_may_hold_anything():
    assert cleaned(b'a,b\n"x, ""y""\nz",2\n')[1][1] == ['x, "y"\nz', "2"]


def test_no_two_columns_have_the_same_name():
    assert cleaned(b"id,ID,,id\n1,2,3,4\n")[1][0] == ["id", "ID 2", "column 3", "id 3"]


def test_rows_of_any_length_become_alike():
    assert cleaned(b"a,b\n1\n1,2,3\n")[1] == [["a", "b", "column 3"], ["1", "", ""], ["1", "2", "3"]]


def test_formulas_become_text_and_numbers_stay():
    cells = (
        "=1+1",
        "@SUM(A1)",
        "+cmd|' /C calc'!A0",
        "-2+3+A1",
        "\uff1dA1",
        "\t=A1",
        "-5",
        "+3.14",
        "-12 %",
        "+49 30 123",
        "-1.5e-07",
        "-inf",
    )
    data = "a\n" + "\n".join(f'"{cell}"' for cell in cells)
    found, rows = cleaned(data.encode())
    assert [row[0][0] for row in rows[1:]] == ["'"] * 6 + ["-", "+", "-", "+", "-", "-"]
    assert found["formulas"] == 6


def test_what_is_no_csv_is_a_table_of_one_cell():
    assert cleaned(b"")[1] == []
    assert cleaned(b"\0\0x")[1] == [["x"]]
    assert len(cleaned(b'a,"b\n1,2\n')[1]) == 1


def test_a_long_file_comes_in_batches():
    found, *batches = clean(b"n\n" + b"7\n" * 1200)
    assert [len(batch) for batch in batches] == [500, 500, 201]
    assert found["rows"] == 1200
