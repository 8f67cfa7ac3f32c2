"""A package, so that the tests share `reference` and `conftest`, and names like test_report stay unique."""
