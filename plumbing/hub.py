"""A repository on the Hugging Face Hub: one of its files in the local cache, and which files it has.

Everything goes through huggingface_hub, so its cache, HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean
what they always mean.
"""
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from plumbing.weight_files import first_line


HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@\w[\w./-]*)?", re.ASCII)


class Repository:
    """ORG/NAME or ORG/NAME@revision."""

    def __init__(self, name):
        self.name = name
        self.repo, _, revision = name.partition("@")
        self.revision = revision or None

    def fetch(self, file):
        """-> path of a file in the Hub's cache, downloaded when new; None when the repository has no such
        file. ValueError, one line, where that cannot be known."""
        repo = self.repo
        try:
            return huggingface_hub.hf_hub_download(repo, file, revision=self.revision)
        except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError too, so it goes first
            if self.is_known_to_lack(file):
                return None
            reason = f"at {constants.ENDPOINT} cannot be reached; try again, or give a local folder"
            if constants.HF_HUB_OFFLINE:
                reason = ("is switched off (HF_HUB_OFFLINE); download once with a network, "
                          "or give a local folder")
            raise ValueError(f"{repo}: {file} is not in the cache and the Hub {reason}") from error
        except errors.GatedRepoError as error:  # before RepositoryNotFoundError, which it also is
            raise ValueError(f"{repo}: is gated; accept its terms on its page, "
                             "then `hf auth login` or set HF_TOKEN") from error
        except errors.RepositoryNotFoundError as error:
            raise ValueError(f"{repo}: no such folder, and no such repository on the Hub "
                             "(or a private one: set HF_TOKEN)") from error
        except errors.RevisionNotFoundError as error:
            raise ValueError(f"{repo}: has no revision {self.revision!r}") from error
        except errors.EntryNotFoundError:
            return None
        except Exception as error:  # the Hub's, the network library's, the disk's
            raise ValueError(f"{repo}: {file} could not be downloaded: {first_line(error)}") from error

    def files(self):
        """-> names of all its files; without a network, of those in the cache."""
        if not constants.HF_HUB_OFFLINE:
            try:
                return huggingface_hub.list_repo_files(self.repo, revision=self.revision)
            except Exception:                                      # then the cache has to do
                pass
        return self.cached_files()

    def is_known_to_lack(self, file):
        """Without a network: did the Hub once say so, or is the repository in the cache without this file?"""
        if huggingface_hub.try_to_load_from_cache(self.repo, file, revision=self.revision) is not None:
            return True
        return constants.HF_HUB_OFFLINE and bool(self.cached_files())

    def cached_files(self):
        """-> names of the files in the cache, [] where there are none."""
        settings = {"revision": self.revision, "local_files_only": True}
        try:
            folder = Path(huggingface_hub.snapshot_download(self.repo, **settings))
        except errors.LocalEntryNotFoundError:
            return []
        return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
