"""The one error demur raises for something the user can mend."""


class UserError(ValueError):
    """A wrong value, file or setting: one line that names the value and the cure.

    The command line prints the message alone and exits with code 2; anything else that
    escapes is a bug and keeps its traceback.
    """


class SettingError(UserError):
    """The same, of a setting, with whose name in its group it begins: ``base_url is missing``.

    `settings.explain` puts before it where the group stands.
    """
