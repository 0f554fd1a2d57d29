//! One small kitchen that the tests of the native world share.

use env_bridge::{NativeEnvironment, NativeWorld};
use scenarios::Environment;
use std::path::Path;

/// The actions of ALFWorld, shortened.
pub(crate) const DOMAIN: &str = r#"
(define (domain kitchen)
 (:requirements :adl :typing :action-costs)
 (:types agent location receptacle object rtype otype)
 (:predicates
   (atLocation ?a - agent ?l - location) (receptacleAtLocation ?r - receptacle ?l - location)
   (objectAtLocation ?o - object ?l - location) (inReceptacle ?o - object ?r - receptacle)
   (openable ?r - receptacle) (opened ?r - receptacle) (checked ?x) (holds ?a - agent ?o - object)
   (holdsAny ?a - agent) (receptacleType ?r - receptacle ?t - rtype) (objectType ?o - object ?t - otype)
   (canContain ?rt - rtype ?ot - otype) (isReceptacleObject ?o - object)
   (inReceptacleObject ?inner - object ?outer - object) (isHot ?o - object) (isCool ?o - object)
   (isOn ?o - object) (isToggled ?o - object) (toggleable ?o - object))
 (:functions (total-cost) - number)
 (:action look :parameters (?a - agent ?l - location) :precondition (atLocation ?a ?l) :effect (checked ?l))
 (:action inventory :parameters (?a - agent) :precondition () :effect (checked ?a))
 (:action help :parameters (?a - agent) :precondition () :effect (checked ?a))
 (:action examineReceptacle :parameters (?a - agent ?r - receptacle)
   :precondition (exists (?l - location) (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l)))
   :effect (checked ?r))
 (:action examineObject :parameters (?a - agent ?o - object)
   :precondition (or
     (exists (?l - location, ?r - receptacle)
       (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (inReceptacle ?o ?r)))
     (holds ?a ?o))
   :effect (checked ?o))
 (:action GotoLocation :parameters (?a - agent ?lStart - location ?lEnd - location ?r - receptacle)
   :precondition (and (atLocation ?a ?lStart) (receptacleAtLocation ?r ?lEnd))
   :effect (and (not (atLocation ?a ?lStart)) (atLocation ?a ?lEnd) (increase (total-cost) 1)))
 (:action OpenObject :parameters (?a - agent ?l - location ?r - receptacle)
   :precondition (and (openable ?r) (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (not (opened ?r)))
   :effect (and (opened ?r) (checked ?r)))
 (:action CloseObject :parameters (?a - agent ?l - location ?r - receptacle)
   :precondition (and (openable ?r) (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (opened ?r))
   :effect (not (opened ?r)))
 (:action PickupObject :parameters (?a - agent ?l - location ?o - object ?r - receptacle)
   :precondition (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (inReceptacle ?o ?r) (not (holdsAny ?a))
     (or (not (openable ?r)) (opened ?r)))
   :effect (and (not (inReceptacle ?o ?r)) (holds ?a ?o) (holdsAny ?a) (not (objectAtLocation ?o ?l))))
 (:action PutObject
   :parameters (?a - agent ?l - location ?o - object ?r - receptacle ?ot - otype ?rt - rtype)
   :precondition (and (holds ?a ?o) (atLocation ?a ?l) (receptacleAtLocation ?r ?l)
     (or (not (openable ?r)) (opened ?r)) (objectType ?o ?ot) (receptacleType ?r ?rt) (canContain ?rt ?ot))
   :effect (and (inReceptacle ?o ?r) (objectAtLocation ?o ?l) (not (holds ?a ?o)) (not (holdsAny ?a))))
 (:action HeatObject :parameters (?a - agent ?l - location ?r - receptacle ?o - object)
   :precondition (and (receptacleType ?r MicrowaveType) (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (holds ?a ?o))
   :effect (and (isHot ?o) (not (isCool ?o))))
 (:action CoolObject :parameters (?a - agent ?l - location ?r - receptacle ?o - object)
   :precondition (and (receptacleType ?r FridgeType) (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (holds ?a ?o))
   :effect (and (isCool ?o) (not (isHot ?o))))
 (:action ToggleObject :parameters (?a - agent ?l - location ?o - object ?r - receptacle)
   :precondition (and (toggleable ?o) (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (inReceptacle ?o ?r))
   :effect (and (when (isOn ?o) (not (isOn ?o))) (when (not (isOn ?o)) (isOn ?o)) (isToggled ?o)))
)"#;

/// Two shelves at one location, and a pan that is on both of them and inside itself.
pub(crate) const PROBLEM: &str = r#"
(define (problem breakfast) (:domain kitchen)
 (:objects agent1 - agent
   loc_bar_1 loc_bar_2 loc_bar_3 loc_bar_9 - location
   Shelf_bar_1 Shelf_bar_2 Fridge_bar_1 Microwave_bar_1 Sink_bar_1_bar_SinkBasin - receptacle
   Pan_bar_1 Egg_bar_b Egg_bar_a DeskLamp_bar_1 - object
   ShelfType FridgeType MicrowaveType SinkBasinType - rtype
   PanType EggType LampType - otype)
 (:init (= (total-cost) 0)
   (atLocation agent1 loc_bar_9)
   (receptacleAtLocation Shelf_bar_1 loc_bar_1) (receptacleAtLocation Shelf_bar_2 loc_bar_1)
   (receptacleAtLocation Fridge_bar_1 loc_bar_2) (receptacleAtLocation Microwave_bar_1 loc_bar_3)
   (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_3)
   (openable Fridge_bar_1) (openable Microwave_bar_1) (opened Microwave_bar_1)
   (inReceptacle Pan_bar_1 Shelf_bar_1) (inReceptacle Pan_bar_1 Shelf_bar_2) (objectAtLocation Pan_bar_1 loc_bar_1)
   (inReceptacle Egg_bar_a Fridge_bar_1) (objectAtLocation Egg_bar_a loc_bar_2)
   (inReceptacle Egg_bar_b Fridge_bar_1) (objectAtLocation Egg_bar_b loc_bar_2)
   (inReceptacle DeskLamp_bar_1 Shelf_bar_1) (objectAtLocation DeskLamp_bar_1 loc_bar_1) (toggleable DeskLamp_bar_1)
   (inReceptacle Egg_bar_a Shelf_bar_2)
   (isReceptacleObject Pan_bar_1) (inReceptacleObject Egg_bar_a Pan_bar_1) (inReceptacleObject Pan_bar_1 Pan_bar_1)
   (receptacleType Shelf_bar_1 ShelfType) (receptacleType Shelf_bar_2 ShelfType)
   (receptacleType Fridge_bar_1 FridgeType) (receptacleType Microwave_bar_1 MicrowaveType)
   (receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType)
   (objectType Pan_bar_1 PanType) (objectType Egg_bar_a EggType) (objectType Egg_bar_b EggType)
   (objectType DeskLamp_bar_1 LampType)
   (canContain ShelfType PanType) (canContain ShelfType EggType) (canContain MicrowaveType EggType))
 (:goal (exists (?o - object) (exists (?r - receptacle)
   (and (inReceptacle ?o ?r) (objectType ?o EggType) (receptacleType ?r MicrowaveType) (isHot ?o)))))
)"#;

/// Texts in the form of ALFWorld 2.1.3.
pub(crate) const GRAMMAR: &str = r##"grammar :: """
{
 "intro": [{"rhs": "-= Welcome =-\n\n#look.feedback#\n\n#task#"}],
 "task": [{"rhs": "Your task is to: warm an egg."}],
 "arrive": [{"rhs": "You arrive at {r.name}. #receptacle#"}],
 "receptacle": [
  {"condition": "openable(r:receptacle) & opened(r:receptacle)", "rhs": "The {r.name} is open. In it, you see #inside#."},
  {"condition": "openable(r:receptacle)", "rhs": "The {r.name} is closed."},
  {"rhs": "On the {r.name}, you see #inside#."}],
 "inside": [{"rhs": "[{o.indefinite + ' ' + o.name | inreceptacle(o:object, r:receptacle)}]"}],
 "object": [
  {"condition": "isreceptacleobject(o:object)",
   "rhs": "This is a normal {o.name}. In it, you see [{o2.indefinite + ' ' + o2.name | inreceptacleobject(o2:object, o:object)}]."},
  {"condition": "ishot(o:object)", "rhs": "This is a hot {o.name}."},
  {"condition": "iscool(o:object)", "rhs": "This is a cold {o.name}."},
  {"rhs": "There's nothing special about {o.name}."}],
 "inventory.feedback": [
  {"condition": "holdsany(a:agent)", "rhs": "You are carrying: [{o.indefinite + ' ' + o.name | holds(a:agent, o:object)}]."},
  {"rhs": "You are not carrying anything."}],
 "use": [
  {"condition": "toggleable(o:object) & istoggled(o:object)", "rhs": "You turn on the {o.name}."},
  {"rhs": "You turn off the {o.name}."}],
 "list_empty": [{"rhs": "nothing"}],
 "list_separator": [{"rhs": ", "}],
 "list_last_separator": [{"rhs": ", and "}]
}
""";
action look { template :: "look"; feedback :: "#look.feedback#";
 grammar :: """
 {
  # a comment line, as TextWorld allows in an action's grammar
  "look.feedback": [
   {"condition": "atlocation(a:agent, l:location) & receptacleatlocation(r:receptacle, l:location)",
    "rhs": "You are facing the [{r.name | atlocation(a:agent, l:location) & receptacleatlocation(r:receptacle, l:location)}]. Next to it, you see #floor#."},
   {"rhs": "You are in the middle of a room. Looking quickly around you, you see [{#overview(r)# | receptacleatlocation(r:receptacle, l:location)}]."}],
  "floor": [
   {"condition": "atlocation(a:agent, l:location) & objectatlocation(o:object, l:location) & receptacleatlocation(r:receptacle, l:location) & not_inreceptacle(o:object, r:receptacle)",
    "rhs": "[{o.name | atlocation(a:agent, l:location) & objectatlocation(o:object, l:location) & receptacleatlocation(r:receptacle, l:location) & not_inreceptacle(o:object, r:receptacle)}]"},
   {"rhs": "nothing"}],
  "overview(r)": [{"rhs": "{r.indefinite} {r.name or r.id}"}]
 }
 """; }
action GotoLocation { template :: "go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]"; feedback :: "#arrive#"; }
action OpenObject { template :: "open {r}"; feedback :: "You open the {r.name}. #receptacle#"; }
action CloseObject { template :: "close {r}"; feedback :: "You close the {r.name}."; }
action PickupObject { template :: "take {o} from {r}"; feedback :: "You pick up the {o.name} from the {r.name}."; }
action PutObject { template :: "move {o} to {r}"; feedback :: "You move the {o.name} to the {r.name}."; }
action inventory { template :: "inventory"; feedback :: "#inventory.feedback#"; }
action examineReceptacle { template :: "examine {r}"; feedback :: "#receptacle#"; }
action examineObject { template :: "examine {o}"; feedback :: "#object#"; }
action HeatObject { template :: "heat {o} with {r}"; feedback :: "You heat the {o.name} using the {r.name}."; }
action CoolObject { template :: "cool {o} with {r}"; feedback :: "You cool the {o.name} using the {r.name}."; }
action ToggleObject { template :: "use {o}"; feedback :: "#use#"; }
action help { template :: "help"; feedback :: "
Commands:
  look
"; }
"##;

pub(crate) fn load(problem: &str, grammar: &str) -> NativeEnvironment {
    load_in(DOMAIN, problem, grammar)
}

pub(crate) fn load_in(domain: &str, problem: &str, grammar: &str) -> NativeEnvironment {
    let file =
        serde_json::json!({ "pddl_domain": domain, "grammar": grammar, "pddl_problem": problem });
    let game =
        NativeWorld::new().game_from_bytes(Path::new("kitchen"), file.to_string().as_bytes());
    NativeEnvironment::new(game.expect("the kitchen loads"))
}

pub(crate) fn kitchen() -> NativeEnvironment {
    load(PROBLEM, GRAMMAR)
}

pub(crate) fn admissible(environment: &mut NativeEnvironment) -> Vec<String> {
    environment
        .admissible_commands()
        .expect("the environment lists its commands")
}
