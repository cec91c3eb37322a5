"""What users write, as the type checkers see it. These files are checked by mypy and by pyright and
never run: `assert_type` states what a type is, and an ignored error proves that a wrong call is one
(both checkers complain about an ignore that is not needed).
"""
