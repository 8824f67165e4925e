"""MLflow's model registry: versions of a voice, and the aliases that people pick them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from dimts.core.errors import UserError
from dimts.tracking.card import updated
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_client import connected

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CANDIDATE = "candidate"
"""The newest voice that was registered; MLflow keeps the name "latest" to itself."""
CHAMPION = "champion"
"""The voice that speaks; `dimts promote` makes a candidate it."""


class Version(NamedTuple):
    """A version of a registered model; tags are its metrics, and what promotion found."""

    name: str
    number: str
    run_id: str | None
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """What `resolve_model` takes."""
        return f"models:/{self.name}/{self.number}"


class Registry:
    """One registered model of a store.

    Raises:
        UserError: of every method, too: the store cannot be reached, or refuses; one line.
    """

    def __init__(self, config: TrackingConfig, name: str) -> None:
        self._config, self.name = config.absolute(), name
        self._config.check_store()

    def find(self, alias: str) -> Version | None:
        """The version that has an alias; None if none has it, or there is no such model."""
        from mlflow.exceptions import MlflowException

        with connected(self._config) as client:
            try:
                return _version(client.get_model_version_by_alias(self.name, alias))
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        return None

    def get(self, alias: str) -> Version:
        """The same, or a `UserError` that says how to get one."""
        if found := self.find(alias):
            return found
        raise UserError(
            f"{self._config.shown}: no voice {self.name}@{alias}; train one with --set "
            f"tracking.registered_model={self.name}, and dimts promote makes it champion"
        )

    def version(self, number: str) -> Version:
        """A version by its number."""
        with connected(self._config) as client:
            return _version(client.get_model_version(self.name, number))

    def set_alias(self, alias: str, version: Version) -> None:
        """Give a version the alias, which the one that had it loses."""
        with connected(self._config) as client:
            client.set_registered_model_alias(self.name, alias, version.number)

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add tags to a version, or change them; its model card follows."""
        with connected(self._config) as client:
            for key, value in tags.items():
                client.set_model_version_tag(self.name, version.number, key, value)
            now = client.get_model_version(self.name, version.number)
            card = updated(now.description or "", now.tags)
            client.update_model_version(self.name, version.number, card)


def register(
    client: MlflowClient,
    name: str,
    model_id: str,
    run_id: str,
    tags: Mapping[str, str],
    card: str = "",
) -> Version:
    """Make a logged model the newest version of a registered one, and its candidate.

    A model that was registered before, by a process that was killed then, keeps its version, and
    does not take the alias from a newer one.

    Args:
        client, tags, card: connected; of the version; what `card.described` says of it.
        name: of the registered model; made when there is none.
        model_id, run_id: of the logged model, and of the run that it comes from.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Given as models:/ID, MLflow would look for it in the process's default store.
    source = client.get_logged_model(model_id).artifact_location
    of_run = client.search_model_versions(f"run_id = '{run_id}'")
    made = next((v for v in of_run if (v.name, v.source) == (name, source)), None)
    if made is None:
        made = client.create_model_version(
            name, source, run_id, dict(tags), description=updated(card, tags), model_id=model_id,
            await_creation_for=0,
        )  # fmt: skip
    newest = client.get_registered_model(name).aliases.get(CANDIDATE, 0)
    if int(newest) < int(made.version):
        client.set_registered_model_alias(name, CANDIDATE, str(made.version))
    return _version(made)


def _version(found: ModelVersion) -> Version:
    return Version(found.name, str(found.version), found.run_id or None, dict(found.tags))
