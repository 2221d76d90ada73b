"""The checker finds what must not happen in histories made by hand, and nothing in those that are as they should be."""

from chaos.checker import check
from chaos.history import CONTROL_PLANE, Answer, Change, Fault, History, Literal, Outcome, Pull, Push, Verdict

ONE, TWO = "node-1", "node-2"


class Story:
    """A history, told in the order in which it happened."""

    def __init__(self):
        self.history = History(nodes={ONE: "westus", TWO: "westus"}, heads=[(0, 0)])
        self.revision = 0

    def change(self, start, end, value, propagation="complete", missing=(), register="password", outcome=Outcome.COMMITTED, **members):
        if outcome is Outcome.COMMITTED and propagation is not None and "revision" not in members:
            self.revision += 1
            members["revision"] = self.revision
        if members.get("revision"):
            first, last = self.history.heads[-1]
            self.history.heads[-1] = (first, max(last, members["revision"]))
        self.history.changes.append(
            Change(
                self.history.number(), f"{register} := {value}", start, end, {register: value}, outcome,
                propagation=propagation, missing=frozenset(missing), **members,
            )
        )  # fmt: skip
        return self

    def answer(self, start, end, value, verdict, node=ONE, register="password", **members):
        condition = ((Literal(register, value),),)
        self.history.answers.append(Answer(self.history.number(), "login", node, start, end, condition, verdict, **members))
        return self

    def accepted(self, start, end, value, **members):
        return self.answer(start, end, value, Verdict.ACCEPTED, **members)

    def refused(self, start, end, value, **members):
        return self.answer(start, end, value, Verdict.REFUSED, **members)

    def away(self, start, end, node=ONE):
        self.history.faults.append(Fault(self.history.number(), "pause", node, start, end, frozenset({node})))
        return self

    def found(self):
        return [violation.rule for violation in check(self.history)]


def begun():
    return Story().change(0, 1, "first")


def test_current_is_accepted_and_old_refused():
    story = begun().accepted(2, 3, "first").change(4, 5, "second").refused(6, 7, "first").accepted(6, 7, "second")
    assert story.found() == []


def test_old_accepted_after_complete_is_stale():
    assert begun().change(4, 5, "second").accepted(5.1, 6, "first").found() == ["stale"]


def test_either_is_right_while_the_change_is_under_way():
    story = begun().change(4, 5, "second")
    story.accepted(4.5, 6, "first").refused(4.5, 6, "first").accepted(3, 4.2, "second").refused(3, 4.2, "second")
    assert story.found() == []


def test_current_refused_is_found():
    assert begun().refused(2, 3, "first").found() == ["refused"]


def test_new_accepted_before_it_was_made_is_found():
    assert begun().change(4, 5, "second").accepted(2, 3, "second").found() == ["stale"]


def test_partial_binds_the_nodes_that_it_does_not_name():
    story = begun().change(4, 5, "second", "partial", [ONE]).accepted(6, 7, "first", node=ONE)
    assert story.found() == []
    assert story.accepted(6, 7, "first", node=TWO).found() == ["stale"]


def test_pending_binds_nobody_until_a_later_change_is_complete():
    story = begun().change(4, 5, "second", "pending", [ONE]).accepted(6, 7, "first")
    assert story.found() == []
    story.change(8, 9, "anything", register="other").accepted(10, 11, "first")
    assert story.found() == ["stale"]


def test_a_node_that_came_back_and_serves_the_old_state_after_complete_is_found():
    story = begun().change(4, 5, "second", "partial", [ONE]).change(6, 7, "third").accepted(8, 9, "second")
    assert story.found() == ["stale"]


def test_a_concurrent_change_with_a_lower_revision_promises_nothing_about_a_higher_one():
    story = begun()
    story.change(4, 9, "second", "pending", [ONE], revision=3).change(4, 5, "x", register="other", revision=2)
    assert story.accepted(6, 7, "first").found() == []


def test_a_call_that_broke_allows_both_states():
    story = begun().change(4, 5, "second", None, outcome=Outcome.UNKNOWN).accepted(6, 7, "first").accepted(6, 7, "second")
    assert story.refused(6, 7, "first").refused(6, 7, "second").found() == []


def test_after_a_broken_call_the_next_change_counts():
    story = begun().change(4, 5, "second", None, outcome=Outcome.UNKNOWN).change(6, 7, "third")
    assert story.found() == []
    assert story.accepted(8, 9, "second").accepted(8, 9, "first").found() == ["stale", "stale"]


def test_a_call_that_did_nothing_changes_nothing():
    story = begun().change(4, 5, "second", None, outcome=Outcome.NOT_COMMITTED).accepted(6, 7, "first")
    assert story.found() == []
    assert story.refused(6, 7, "first").found() == ["refused"]


def test_a_change_seen_at_the_control_plane_is_not_yet_promised_to_nodes():
    story = begun().change(4, 5, "second", None).accepted(6, 7, "first").refused(6, 7, "first")
    assert story.found() == []
    assert story.accepted(6, 7, "first", node=CONTROL_PLANE).found() == ["lost-change"]


def test_a_token_may_be_refused_for_what_happened_since_it_was_made():
    story = begun().change(4, 5, "second").change(6, 7, "first")
    assert story.refused(8, 9, "first", refusable_since=2).found() == []
    assert story.refused(8, 9, "first", refusable_since=7.5).found() == ["refused"]


def test_any_one_of_several_assignments_is_enough():
    story = Story().change(0, 1, "there", register="a").change(2, 3, "there", register="b").change(4, 5, "gone", register="a")
    condition = ((Literal("a", "there"), Literal("b", "there")),)
    story.history.answers.append(Answer(99, "login", ONE, 6, 7, condition, Verdict.ACCEPTED))
    assert story.found() == []
    story.history.answers.append(Answer(100, "login", ONE, 6, 7, condition, Verdict.REFUSED))
    assert story.found() == ["refused"]
    story.change(8, 9, "gone", register="b")
    story.history.answers.append(Answer(101, "login", ONE, 10, 11, condition, Verdict.ACCEPTED))
    assert story.found() == ["refused", "stale"]


def test_two_parts_that_never_held_at_once_are_found():
    story = Story().change(0, 1, "on", register="a").change(2, 3, "off", register="a").change(4, 5, "on", register="b")
    condition = ((Literal("a", "on"),), (Literal("b", "on"),))
    story.history.answers.append(Answer(99, "login", ONE, 0.5, 9, condition, Verdict.ACCEPTED))
    assert story.found() == ["stale"]


def test_complete_while_a_node_was_away_is_found():
    assert begun().away(3, 6).change(4, 5, "second").found() == ["wrong-complete"]
    assert begun().away(3, 6).change(4, 5, "second", "partial", [TWO]).found() == ["wrong-complete"]
    assert begun().away(3, 6).change(4, 5, "second", "partial", [ONE]).found() == []
    assert begun().away(3, 6).change(4, 5, "second", "pending").found() == []
    assert begun().away(4.5, 6).change(4, 5, "second").found() == [], "it may have heard of it just before"


def test_complete_without_a_node_that_is_fenced_is_right():
    story = begun().away(3, 20).change(14, 15.5, "second")
    story.history.bounds[ONE] = 10
    assert story.found() == []
    story.history.bounds[ONE] = 13
    assert story.found() == ["wrong-complete"]
    story.away(1, 2)
    assert story.found() == [], "it may not have been heard since before the fault before"


def test_a_promise_for_one_region_binds_no_other():
    story = begun()
    story.history.nodes[TWO] = "northeurope"
    story.change(4, 5, "second", "pending").change(6, 7, "x", register="other", regions=frozenset({"westus"}))
    assert story.accepted(8, 9, "first", node=TWO).found() == []
    assert story.accepted(8, 9, "first", node=ONE).found() == ["stale"]


def test_a_request_handed_on_is_judged_by_any_node_of_the_registry_s_home():
    story = begun()
    story.history.nodes["far"] = "northeurope"
    story.change(4, 5, "second", "partial", [ONE], regions=frozenset({"westus"}))
    assert story.accepted(6, 7, "first", node="far", home="westus").found() == [], "one of its nodes may be behind"
    story.change(8, 9, "x", register="other", regions=frozenset({"westus"}))
    assert story.accepted(10, 11, "first", node="far", home="westus").found() == ["stale"]
    assert story.refused(10, 11, "second", node="far", home="westus").found() == ["stale"], "the far node was promised nothing"


def test_revisions_repeated_skipped_lost_or_out_of_order_are_found():
    assert begun().change(2, 3, "second", revision=1).found() == ["revision-repeated"]
    assert begun().change(2, 3, "second", revision=3).found() == ["revision-skipped"]
    story = begun().change(2, 3, "second", revision=3).change(2, 3, "x", None, register="b", outcome=Outcome.UNKNOWN)
    assert story.found() == []
    assert begun().change(2, 3, "second", revision=3).change(4, 5, "third", revision=2).found() == ["revision-order"]
    story = begun().change(2, 3, "second")
    story.history.heads = [(0, 1)]
    assert story.found() == ["revision-lost"]


def test_a_restored_database_begins_a_generation():
    story = begun().change(4, 5, "second")
    story.history.heads.append((1, 1))
    story.revision = 1
    story.change(6, 8, "first", None, generation=1)
    story.accepted(9, 10, "second").accepted(9, 10, "first")
    assert story.found() == []
    story.change(11, 12, "x", register="other", generation=1, revision=2).accepted(13, 14, "second")
    assert story.found() == ["stale"]


def image(story, acknowledged=True):
    push = Push(story.history.number(), Literal("registry", "here"), "app", "v1", "sha256:1", ONE, 2, 3, acknowledged)
    story.history.pushes.append(push)
    return push


def pulled(story, push, start, end, found):
    story.history.pulls.append(Pull(story.history.number(), push.number, TWO, start, end, found))
    return story


def test_what_was_acknowledged_must_be_there():
    story = Story().change(0, 1, "here", register="registry")
    push = image(story)
    assert pulled(story, push, 4, 5, "identical").found() == []
    assert pulled(story, push, 6, 7, "absent").found() == ["content-lost"]
    assert pulled(story, push, 8, 9, "different").found() == ["content-lost", "content-differs"]


def test_what_was_acknowledged_must_be_pulled_at_the_end():
    story = Story().change(0, 1, "here", register="registry")
    image(story)
    assert story.found() == ["content-unseen"]


def test_what_was_not_acknowledged_or_went_with_its_registry_may_be_absent():
    story = Story().change(0, 1, "here", register="registry")
    pulled(story, image(story, acknowledged=False), 4, 5, "absent")
    assert story.found() == []
    push = image(story)
    story.change(6, 7, "gone", register="registry")
    assert pulled(story, push, 6.5, 8, "absent").found() == []
    assert pulled(story, push, 5, 5.5, "absent").found() == ["content-lost"]


def test_what_a_node_behind_took_for_the_registry_before_may_be_absent():
    story = Story().change(0, 1, "here-1", register="registry").change(1, 2.5, "here-2", "pending", register="registry")
    push = Push(50, Literal("registry", "here-2"), "app", "v1", "sha256:1", ONE, 3, 4, True)
    story.history.pushes.append(push)
    assert pulled(story, push, 6, 7, "absent").found() == []


def test_what_went_with_its_registry_must_not_come_back():
    story = Story().change(0, 1, "here-1", register="registry").change(4, 5, "gone", register="registry")
    push = Push(50, Literal("registry", "here-1"), "app", "v1", "sha256:1", ONE, 2, 3, True)
    story.history.pushes.append(push)
    story.change(6, 7, "here-2", register="registry")
    assert pulled(story, push, 8, 9, "identical").found() == ["content-resurrected"]


def test_an_incident_is_a_violation():
    story = begun()
    story.history.incidents.append((3.0, "a node answered 500"))
    assert story.found() == ["incident"]
