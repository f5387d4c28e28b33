"""The assembled program means what the rules say: an interpreter of classic BPF runs it on any call."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.sandbox.bpf import ALLOW, KILL_PROCESS, OWN_PID, TRAP, Check, Rule, assemble, deny
from cloister.sandbox.groups import GROUPS, QUIET, default, rules_for
from cloister.sandbox.syscalls import AARCH64, ARCHITECTURES, X86_64, Architecture

PID = 4242

words64 = st.integers(0, 2**64 - 1)
interesting = st.sampled_from([0, 1, 2, 4, 31, PID, 0x1000, 2**31, 2**32 - 1, 2**32, 2**32 + 4, 2**64 - 1])
arguments = st.tuples(*[words64 | interesting] * 6)


def run(code: bytes, audit: int, number: int, args: tuple[int, ...]) -> int:
    """Linux's classic BPF, as far as seccomp allows it: the action that ``code`` returns."""
    data = struct.pack("=iIQ6Q", number if number < 2**31 else number - 2**32, audit, 0, *args)
    accumulator = 0
    position = 0
    for _ in range(len(code) // 8):
        operation, jump_true, jump_false, k = struct.unpack_from("=HBBI", code, 8 * position)
        position += 1
        match operation:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= k
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                position += jump_true if accumulator == k else jump_false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                position += jump_true if accumulator >= k else jump_false
            case 0x06:  # BPF_RET | BPF_K
                return int(k)
            case _:
                raise AssertionError(f"seccomp refuses instruction {operation:#x}")
    raise AssertionError("the program does not return")


def meant(rule: Rule | None, args: tuple[int, ...], default: int) -> int:
    if rule is None:
        return default
    for alternative in rule.alternatives:
        if all(args[c.argument] & c.mask == (PID if c.value == OWN_PID else c.value) for c in alternative):
            return ALLOW
    return rule.otherwise


@st.composite
def checks(draw: st.DrawFn) -> Check:
    argument = draw(st.integers(0, 5))
    if draw(st.booleans()):
        return Check(argument, OWN_PID)
    mask = draw(st.integers(1, 2**64 - 1) | st.sampled_from([4, 0xF, 2**32 - 1, 2**32, 2**64 - 1]))
    return Check(argument, draw(words64 | interesting) & mask, mask)


def some_rules(architecture: Architecture) -> st.SearchStrategy[dict[str, Rule]]:
    rule = st.builds(
        Rule,
        st.lists(st.lists(checks(), max_size=3).map(tuple), max_size=4).map(tuple),
        st.sampled_from([TRAP, KILL_PROCESS, deny(errno.EPERM), deny(errno.ENOSYS)]),
    )
    return st.dictionaries(st.sampled_from(sorted(architecture.numbers)), rule, max_size=12)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_program_means_what_its_rules_say(architecture: Architecture, data: st.DataObject) -> None:
    rules = data.draw(some_rules(architecture))
    code = assemble(architecture, rules).code(PID)
    names = [*sorted(rules), *data.draw(st.lists(st.sampled_from(sorted(architecture.numbers)), max_size=3))]
    for name in names:
        args = data.draw(arguments)
        # Arguments that a rule looks for are too rare to be met by chance.
        for alternative in rules.get(name, Rule()).alternatives[:1]:
            for check in alternative if data.draw(st.booleans()) else ():
                wanted = PID if check.value == OWN_PID else check.value
                args = tuple(wanted if i == check.argument else a for i, a in enumerate(args))
        assert run(code, architecture.audit, architecture.numbers[name], args) == meant(
            rules.get(name), args, TRAP
        )


ALL_GROUPS = tuple(GROUPS)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
@settings(max_examples=15, deadline=None)
@given(groups=st.sets(st.sampled_from(ALL_GROUPS)), args=arguments)
def test_the_groups_are_held_for_every_call_that_there_is(
    architecture: Architecture, groups: set[str], args: tuple[int, ...]
) -> None:
    rules = rules_for(sorted(groups), architecture)
    code = assemble(architecture, rules).code(PID)
    for name, number in architecture.numbers.items():
        assert run(code, architecture.audit, number, args) == meant(rules.get(name), args, TRAP)


@given(number=st.integers(0, 2**32 - 1), args=arguments)
def test_a_number_without_a_name_traps_or_does_not_exist(number: int, args: tuple[int, ...]) -> None:
    code = assemble(X86_64, rules_for(ALL_GROUPS, X86_64)).code(PID)
    if number not in X86_64.numbers.values():
        expected = deny(errno.ENOSYS) if number >= 0x40000000 else TRAP
        assert run(code, X86_64.audit, number, args) == expected


@given(audit=st.integers(0, 2**32 - 1).filter(lambda a: a != X86_64.audit), number=st.integers(0, 500))
def test_a_call_of_another_architecture_kills(audit: int, number: int) -> None:
    code = assemble(X86_64, rules_for(ALL_GROUPS, X86_64)).code(PID)
    assert run(code, audit, number, (0,) * 6) == KILL_PROCESS


def test_a_call_by_the_x32_abi_is_answered_as_where_there_is_none() -> None:
    code = assemble(X86_64, rules_for(("stdio",), X86_64)).code(PID)
    assert run(code, X86_64.audit, X86_64.numbers["read"] | 0x40000000, (0,) * 6) == deny(errno.ENOSYS)


def test_the_upper_half_of_an_int_is_not_looked_at_and_of_a_long_it_is() -> None:
    rules = {"ioctl": Rule(((Check(1, 5),),)), "clone": Rule(((Check(0, 5, mask=2**64 - 1),),))}
    code = assemble(AARCH64, rules).code(PID)
    high = 7 << 32 | 5
    assert run(code, AARCH64.audit, AARCH64.numbers["ioctl"], (0, high, 0, 0, 0, 0)) == ALLOW
    assert run(code, AARCH64.audit, AARCH64.numbers["clone"], (high, 0, 0, 0, 0, 0)) == TRAP


def test_every_call_that_a_group_names_exists_on_some_architecture() -> None:
    known = {name for architecture in ARCHITECTURES for name in architecture.numbers}
    assert {name for group in GROUPS.values() for grant in group for name in grant.calls} | set(
        QUIET
    ) <= known


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_where_there_is_no_older_call_the_newer_one_is_allowed_in_its_place(
    architecture: Architecture,
) -> None:
    allowed = {
        name for name, rule in rules_for(("ipc", "event_loop"), architecture).items() if rule.alternatives
    }
    assert len(allowed & {"poll", "ppoll"}) == 1
    assert len(allowed & {"epoll_wait", "epoll_pwait"}) == 1


def test_the_whole_of_the_groups_fits_in_a_program() -> None:
    assert len(assemble(X86_64, rules_for(ALL_GROUPS, X86_64)).code(PID)) // 8 <= 4096


def test_rules_that_do_not_fit_are_refused() -> None:
    many = tuple((Check(0, value),) for value in range(200))
    with pytest.raises(ValueError, match="the checks of ioctl take"):
        assemble(X86_64, {"ioctl": Rule(many)})


@pytest.mark.parametrize(
    ("argument", "value", "mask"), [(6, 0, 1), (-1, 0, 1), (0, 2, 1), (0, -2, 1), (0, 0, 0), (0, OWN_PID, 1)]
)
def test_a_check_that_can_never_hold_is_refused(argument: int, value: int, mask: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        Check(argument, value, mask)


WRITABLE = 0x2
EXECUTABLE = 0x4
ANONYMOUS = 0x20


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
@given(protection=words64)
def test_no_group_but_a_programs_maps_executable_memory(architecture: Architecture, protection: int) -> None:
    groups = [group for group in ALL_GROUPS if group != "program"]
    code = assemble(architecture, rules_for(groups, architecture)).code(PID)
    for name in ("mmap", "mprotect"):
        allowed = (
            run(code, architecture.audit, architecture.numbers[name], (0, 0, protection, 0, 0, 0)) == ALLOW
        )
        assert allowed == (not protection & EXECUTABLE)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
@given(protection=words64, flags=words64)
def test_a_program_maps_as_code_what_is_a_file_and_not_writable(
    architecture: Architecture, protection: int, flags: int
) -> None:
    code = assemble(architecture, rules_for(("memory", "program"), architecture, quietly=True)).code(PID)

    def allows(name: str) -> bool:
        arguments = (0, 0, protection, flags, 0, 0)
        return run(code, architecture.audit, architecture.numbers[name], arguments) == ALLOW

    assert allows("mprotect") == (not protection & EXECUTABLE)
    is_code = not protection & WRITABLE and not flags & ANONYMOUS
    assert allows("mmap") == (not protection & EXECUTABLE or is_code)


@settings(max_examples=5, deadline=None)
@given(groups=st.sets(st.sampled_from(ALL_GROUPS)), args=arguments)
def test_what_denies_quietly_allows_the_same_and_ends_no_process(
    groups: set[str], args: tuple[int, ...]
) -> None:
    rules = rules_for(sorted(groups), X86_64, quietly=True)
    code = assemble(X86_64, rules, default=default(quietly=True)).code(PID)
    loud = assemble(X86_64, rules_for(sorted(groups), X86_64)).code(PID)
    for number in (*X86_64.numbers.values(), 999):
        answer = run(code, X86_64.audit, number, args)
        assert answer in (ALLOW, deny(errno.EPERM), deny(errno.ENOSYS))
        assert (answer == ALLOW) == (run(loud, X86_64.audit, number, args) == ALLOW)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
@given(flags=words64)
def test_only_who_forks_may_and_it_makes_no_namespace(architecture: Architecture, flags: int) -> None:
    clone = architecture.numbers["clone"]
    others = [g for g in ALL_GROUPS if g not in ("fork", "threads", "processes")]
    without = assemble(architecture, rules_for(others, architecture))
    assert run(without.code(PID), architecture.audit, clone, (flags, 0, 0, 0, 0, 0)) == TRAP
    with_fork = assemble(architecture, rules_for(ALL_GROUPS, architecture)).code(PID)
    new_namespaces = 0x7E020000 | 0x80  # CLONE_NEW*
    if run(with_fork, architecture.audit, clone, (flags, 0, 0, 0, 0, 0)) == ALLOW:
        assert not flags & new_namespaces
