"""Addresses of databases: absolute, and with the driver that is installed."""

import importlib.util

from infill.pipeline import storage
from infill.pipeline.errors import UserError


def database_uri(address: str) -> str:
    """Return a database's address that means the same in every folder and for every SQLAlchemy.

    A relative SQLite path becomes absolute, and its folder is created. PostgreSQL without a named
    driver gets psycopg2, since SQLAlchemy 2.1 would take another by itself.

    Raises:
        UserError: if the driver of PostgreSQL is not installed.
    """
    if address.startswith("postgresql://"):
        address = address.replace("postgresql://", "postgresql+psycopg2://", 1)
    if address.startswith("postgresql+psycopg2:") and not _has_psycopg2():
        raise UserError(
            f"{address} needs PostgreSQL's driver: pip install 'infill[postgres]', or give a "
            "database that needs none, such as sqlite:///runs/mlflow.db"
        )
    prefix = "sqlite:///"
    if not address.startswith(prefix) or address.startswith(prefix + "/"):
        return address
    path = storage.absolute(address.removeprefix(prefix))
    storage.make_folder(path.rsplit("/", 1)[0])
    return prefix + path


def _has_psycopg2() -> bool:
    return importlib.util.find_spec("psycopg2") is not None
