//! The texts of a game: which text of the grammar belongs to an operator, and its objects.

use crate::error::Fault;
use crate::native::grammar::{Piece, Program};
use crate::native::ground::Grounded;
use crate::native::names::ObjectNames;
use crate::native::pddl::{Domain, PddlProblem, TypeId};
use crate::native::text::{FOREIGN, ObjectText, TextFacts, TextRenderer};
use std::sync::Arc;

/// The texts of a game.
#[derive(Debug)]
pub(super) struct GameTexts {
    domain: Arc<Domain>,
    program: Arc<Program>,
    renderer: TextRenderer,
    /// By action and parameter: the declared type, or `None` if there is no such type.
    parameter_types: Vec<Vec<Option<TypeId>>>,
}

impl GameTexts {
    pub(super) fn new(
        domain: &Arc<Domain>,
        program: Arc<Program>,
        problem: &PddlProblem,
        names: ObjectNames<'_>,
        grounded: &Grounded,
    ) -> Self {
        let objects = names
            .of(problem)
            .into_iter()
            .zip(&problem.objects)
            .map(|(name, (id, type_id))| ObjectText {
                name,
                id: id.clone(),
                type_id: *type_id,
            })
            .collect();
        let parameter_types = domain
            .actions
            .iter()
            .map(|action| action.slot_types[..action.parameters.len()].to_vec())
            .collect();
        Self {
            domain: domain.clone(),
            renderer: TextRenderer::new(domain.clone(), program.clone(), grounded, objects),
            program,
            parameter_types,
        }
    }

    /// Returns the names and ids of the objects.
    pub(super) fn objects(&self) -> &[ObjectText] {
        &self.renderer.objects
    }

    /// Returns, by action, the parameters that its command template depends on.
    ///
    /// # Errors
    /// Returns an error if an action with operators has no template, or if its template depends on
    /// facts that change.
    pub(super) fn template_parameters(&self, grounded: &Grounded) -> Result<Vec<Vec<u16>>, Fault> {
        let mut present = vec![false; self.domain.actions.len()];
        for action in &grounded.actions {
            present[usize::from(*action)] = true;
        }
        let mut used = Vec::with_capacity(present.len());
        for (index, action) in self.domain.actions.iter().enumerate() {
            let Some(texts) = &self.program.actions[index] else {
                if present[index] {
                    return Err(Fault::new(
                        0,
                        format!("the grammar has no action {:?}", action.name),
                    ));
                }
                used.push(Vec::new());
                continue;
            };
            if present[index] && !self.renderer.is_fixed(&texts.template) {
                return Err(Fault::new(
                    0,
                    format!(
                        "the template of action {:?} depends on facts that change",
                        action.name
                    ),
                ));
            }
            let places = self
                .program
                .places_used(&texts.template, action.parameters.len());
            used.push(places);
        }
        Ok(used)
    }

    /// Appends the command of an operator to `text`. `work` counts the facts and pieces visited.
    pub(super) fn render_command(
        &self,
        grounded: &Grounded,
        operator: usize,
        text: &mut String,
        work: &mut u32,
    ) -> Result<(), Fault> {
        let action = usize::from(grounded.actions[operator]);
        let template = self.program.actions[action]
            .as_ref()
            .map_or(&[][..], |texts| &texts.template);
        let no_facts = TextFacts {
            holds: &[],
            made_false: &[],
        };
        self.renderer
            .render(
                no_facts,
                template,
                self.frame(grounded, operator),
                text,
                work,
            )
            .map_err(|reason| {
                Fault::new(
                    0,
                    format!(
                        "the template of action {:?}: {reason}",
                        self.domain.actions[action].name
                    ),
                )
            })
    }

    /// Returns the command templates of the grammar, sorted and without duplicates.
    pub(super) fn templates(&self) -> impl Iterator<Item = &str> {
        self.program.templates.iter().map(AsRef::as_ref)
    }

    /// Returns the text of a reset.
    pub(super) fn opening(&self, facts: TextFacts<'_>) -> Result<String, String> {
        self.render(facts, &self.program.intro, Vec::new())
    }

    /// Returns the text after a command that selected this operator.
    pub(super) fn feedback(
        &self,
        facts: TextFacts<'_>,
        grounded: &Grounded,
        operator: usize,
    ) -> Result<String, String> {
        let texts = self.program.actions[usize::from(grounded.actions[operator])].as_ref();
        self.render(
            facts,
            texts.map_or(&[], |texts| &texts.feedback),
            self.frame(grounded, operator),
        )
    }

    /// Returns the text of `#task#`, or `None` if the grammar has no such symbol.
    pub(super) fn task_sentence(&self, facts: TextFacts<'_>) -> Option<String> {
        let pieces = [Piece::Call(self.program.task?)];
        self.render(facts, &pieces, Vec::new()).ok()
    }

    fn render(
        &self,
        facts: TextFacts<'_>,
        pieces: &[Piece],
        frame: Vec<u16>,
    ) -> Result<String, String> {
        let mut text = String::with_capacity(128);
        self.renderer
            .render(facts, pieces, frame, &mut text, &mut 0)?;
        Ok(text)
    }

    /// Returns the objects of an operator as the frame of a text. If an object's type is not the
    /// declared type of the parameter, it is marked [`FOREIGN`].
    fn frame(&self, grounded: &Grounded, operator: usize) -> Vec<u16> {
        let types = &self.parameter_types[usize::from(grounded.actions[operator])];
        let mut frame = Vec::with_capacity(types.len());
        for (object, declared) in grounded.parameters.get(operator).iter().zip(types) {
            let own = self.renderer.objects[usize::from(*object)].type_id;
            let mark = if *declared == Some(own) { 0 } else { FOREIGN };
            frame.push(*object | mark);
        }
        frame
    }
}
