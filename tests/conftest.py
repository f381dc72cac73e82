from hypothesis import settings

from lab import enter_user_namespace

# While this is the process's only thread: a process with several may not enter a user namespace. As root it does
# nothing; as anybody else the tests run all the same.
enter_user_namespace()

# A test is not wrong because the machine is slow.
settings.register_profile("mcr", deadline=None)
settings.load_profile("mcr")
