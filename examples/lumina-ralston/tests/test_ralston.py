from lumina_ralston.step import ralston

from lumina_core.plugins.loader import load_plugins
from lumina_core.testing import check_component, check_solver


def test_it_keeps_the_contract_and_has_the_second_order():
    check_solver(ralston, order=2)


def test_lumina_finds_it():
    check_component(load_plugins(), "solver", "ralston.step")
