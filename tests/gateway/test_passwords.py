"""Passwords: the rule, and hashes that only the right password opens."""

import pytest

from broadaxe_gateway.passwords import hash_password, is_password, password_problem


@pytest.mark.parametrize("password", ["Admin123!!", "Aa345678", "Aa3" + "x" * 61])
def test_good_passwords_are_accepted(password):
    assert password_problem(password) is None


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("Aa34567", "8 to 64"),
        ("Aa3" + "x" * 62, "8 to 64"),
        ("lower123", "upper"),
        ("UPPER123", "lower"),
        ("NoDigits", "digit"),
    ],
)
def test_weak_passwords_are_told_why(password, problem):
    assert problem in password_problem(password)


def test_hash_opens_for_its_password_alone():
    stored = hash_password("Admin123!!")
    assert stored.startswith("$argon2id$")
    assert stored != hash_password("Admin123!!")
    assert is_password("Admin123!!", stored)
    assert not is_password("admin123!!", stored)
    assert not is_password("Admin123!!", "not a hash")
