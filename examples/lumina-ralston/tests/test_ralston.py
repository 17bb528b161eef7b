from lumina_ralston.step import ralston

from lumina_core.plugins.loader import load_plugins
from lumina_core.testing import check_component, check_solver


def test_the_solver_fulfils_its_contract_and_has_order_two():
    check_solver(ralston, order=2)


def test_the_installed_plugin_is_found():
    check_component(load_plugins(), "solver", "ralston.step")
