;; A household: one room with receptacles, things that lie in or on them, and one agent with one hand.
;; Written for engines of TextWorld's PDDL games. What a receptacle can do, and what may be done with a thing, are facts of
;; the problem; no action names a type. Doors matter for taking and putting, never for heating, cooling and cleaning.

(define (domain household)
    (:requirements :adl :typing)

    (:types agent location receptacle item rtype otype)

    (:predicates
        ;; where things are
        (atLocation ?a - agent ?l - location)
        (receptacleAtLocation ?r - receptacle ?l - location)
        (inReceptacle ?o - item ?r - receptacle)
        (holds ?a - agent ?o - item)
        (holdsAny ?a - agent)

        ;; what things are
        (receptacleType ?r - receptacle ?t - rtype)
        (objectType ?o - item ?t - otype)
        (canContain ?rt - rtype ?ot - otype)
        (openable ?r - receptacle)
        (heats ?r - receptacle)
        (cools ?r - receptacle)
        (cleans ?r - receptacle)
        (pickupable ?o - item)
        (heatable ?o - item)
        (coolable ?o - item)
        (cleanable ?o - item)
        (sliceable ?o - item)
        (toggleable ?o - item)
        (blade ?o - item)
        (vessel ?o - item)

        ;; what has become of them
        (opened ?r - receptacle)
        (isHot ?o - item)
        (isCool ?o - item)
        (isClean ?o - item)
        (isSliced ?o - item)
        (isOn ?o - item)
        (isToggled ?o - item)

        ;; commands that only print something still need an effect
        (lookedAround ?l - location)
        (inspected ?r - receptacle)
        (studied ?o - item)
        (askedHelp ?a - agent)
        (tookStock ?a - agent)
    )

    (:action Look
        :parameters (?a - agent ?l - location)
        :precondition (and (atLocation ?a ?l))
        :effect (and (lookedAround ?l))
    )

    (:action Inventory
        :parameters (?a - agent)
        :precondition ()
        :effect (and (tookStock ?a))
    )

    (:action Help
        :parameters (?a - agent)
        :precondition ()
        :effect (and (askedHelp ?a))
    )

    (:action InspectReceptacle
        :parameters (?a - agent ?l - location ?r - receptacle)
        :precondition (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l))
        :effect (and (inspected ?r))
    )

    (:action StudyItem
        :parameters (?a - agent ?o - item)
        :precondition (and (holds ?a ?o))
        :effect (and (studied ?o))
    )

    (:action GotoLocation
        :parameters (?a - agent ?from - location ?to - location ?r - receptacle)
        :precondition (and (atLocation ?a ?from) (receptacleAtLocation ?r ?to))
        :effect (and (not (atLocation ?a ?from)) (atLocation ?a ?to))
    )

    (:action Open
        :parameters (?a - agent ?l - location ?r - receptacle)
        :precondition (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (openable ?r) (not (opened ?r)))
        :effect (and (opened ?r))
    )

    (:action Close
        :parameters (?a - agent ?l - location ?r - receptacle)
        :precondition (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (openable ?r) (opened ?r))
        :effect (and (not (opened ?r)))
    )

    (:action Take
        :parameters (?a - agent ?l - location ?o - item ?r - receptacle)
        :precondition
            (and
                (atLocation ?a ?l)
                (receptacleAtLocation ?r ?l)
                (inReceptacle ?o ?r)
                (pickupable ?o)
                (not (holdsAny ?a))
                (or (not (openable ?r)) (opened ?r))
            )
        :effect (and (holds ?a ?o) (holdsAny ?a) (not (inReceptacle ?o ?r)))
    )

    (:action Move
        :parameters (?a - agent ?l - location ?o - item ?r - receptacle ?ot - otype ?rt - rtype)
        :precondition
            (and
                (atLocation ?a ?l)
                (receptacleAtLocation ?r ?l)
                (holds ?a ?o)
                (objectType ?o ?ot)
                (receptacleType ?r ?rt)
                (canContain ?rt ?ot)
                (or (not (openable ?r)) (opened ?r))
            )
        :effect (and (inReceptacle ?o ?r) (not (holds ?a ?o)) (not (holdsAny ?a)))
    )

    (:action Heat
        :parameters (?a - agent ?l - location ?r - receptacle ?o - item)
        :precondition (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (heats ?r) (holds ?a ?o) (heatable ?o))
        :effect (and (isHot ?o) (not (isCool ?o)))
    )

    (:action Cool
        :parameters (?a - agent ?l - location ?r - receptacle ?o - item)
        :precondition (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (cools ?r) (holds ?a ?o) (coolable ?o))
        :effect (and (isCool ?o) (not (isHot ?o)))
    )

    (:action Clean
        :parameters (?a - agent ?l - location ?r - receptacle ?o - item)
        :precondition (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (cleans ?r) (holds ?a ?o) (cleanable ?o))
        :effect (and (isClean ?o))
    )

    (:action Use
        :parameters (?a - agent ?l - location ?o - item ?r - receptacle)
        :precondition (and (atLocation ?a ?l) (receptacleAtLocation ?r ?l) (inReceptacle ?o ?r) (toggleable ?o))
        :effect
            (and
                (isToggled ?o)
                (when (isOn ?o) (not (isOn ?o)))
                (when (not (isOn ?o)) (isOn ?o))
            )
    )

    (:action Slice
        :parameters (?a - agent ?l - location ?r - receptacle ?o - item ?k - item)
        :precondition
            (and
                (atLocation ?a ?l)
                (receptacleAtLocation ?r ?l)
                (inReceptacle ?o ?r)
                (sliceable ?o)
                (holds ?a ?k)
                (blade ?k)
            )
        :effect (and (isSliced ?o))
    )
)
