"""The rules that `fxpasses.verify` checks, one file a level; importing this fills `RULES`."""

from fxpasses.rules import canonical as canonical
from fxpasses.rules import strict as strict
from fxpasses.rules import well_formed as well_formed
from fxpasses.rules.table import LEVELS as LEVELS
from fxpasses.rules.table import RULES as RULES
from fxpasses.rules.table import Rule as Rule
from fxpasses.rules.table import rule as rule
