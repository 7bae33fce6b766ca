"""Who may do what, with whose consent: policy.toml as a pure function, deny by default.

``parse_policy`` reads the text, ``FilePolicy`` is what the daemon asks and reloads.
"""

from keyd.policy.consents import ConsentRule
from keyd.policy.file import FilePolicy
from keyd.policy.limits import DEFAULT_EXPIRY_DAYS, Limit
from keyd.policy.parse import parse_policy
from keyd.policy.principals import parse_principal
from keyd.policy.rules import Grant, GrantPolicy, Rule
from keyd.policy.starter import starter_policy

__all__ = [
    "DEFAULT_EXPIRY_DAYS",
    "ConsentRule",
    "FilePolicy",
    "Grant",
    "GrantPolicy",
    "Limit",
    "Rule",
    "parse_policy",
    "parse_principal",
    "starter_policy",
]
