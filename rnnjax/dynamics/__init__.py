"""The dynamics of a trained recurrence: fixed points that are proven to exist."""

from rnnjax.dynamics.certify import Certificate, certifier, certify

__all__ = ["Certificate", "certifier", "certify"]
