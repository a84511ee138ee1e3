"""The tests; they are a package so that helpers can be imported as tests.helpers.NAME."""
