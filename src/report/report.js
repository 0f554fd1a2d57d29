// The episodes of a report: a list with filters, order and search; one episode turn by turn, or two side by side.
//
// The fragment of the address contains what is shown: #episodes?store=…&split=…&type=…&outcome=…&q=…&sort=…&at=…&turn=…&beside=…
// Every text of a world, a model or a server is inserted as text, never as markup. pack.rs documents the data layout.
'use strict';
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId('data').textContent);
  byId('data').remove();
  const SVG = byId('svg').namespaceURI;
  const ROW = 48; // height of a row of the list in pixels; the same number is in report.css
  const OUTCOMES = {
    success: 'won', failure: 'lost', turn_limit: 'turn limit', context_limit: 'context limit', env_failed: 'world failed',
  };
  const FIELDS = ['store', 'split', 'type', 'outcome', 'q', 'sort', 'at', 'turn', 'beside'];

  // ---- data

  const stores = data.stores;
  const games = data.games.map(([hash, id, split, type, sentence]) => ({
    hash, id, split, type, sentence, episodes: [], words: `${sentence}\n${id}`.toLowerCase(),
  }));
  const episodes = data.episodes.map(([store, game, outcome, seconds, last, failure, spent, turns]) => {
    const before = games[game].episodes.filter((other) => other.store === stores[store]).length;
    const name = `${stores[store].file}~${games[game].hash.slice(0, 16)}~${before}`;
    const episode = { name, store: stores[store], game: games[game], outcome, seconds, last, failure, spent, turns };
    games[game].episodes.push(episode);
    return episode;
  });
  const byName = new Map(episodes.map((episode) => [episode.name, episode]));
  for (const game of games) {
    const ended = game.episodes.filter((episode) => episode.outcome !== 'env_failed');
    game.won = ended.filter((episode) => episode.outcome === 'success').length;
    game.ended = ended.length;
    game.disagreement = Math.min(game.won, game.ended - game.won) / Math.max(1, game.ended);
  }

  const text = (place) => data.texts[place] ?? '';
  const known = (number) => number !== null && number !== undefined;
  const turnOf = ([observation, completion, action, logprob, value, after, candidates, logRatio, score]) => ({
    observation: text(observation),
    completion: text(completion),
    malformed: !known(action),
    action: action >= 0 && known(action) ? text(action) : null,
    logprob, value, after, logRatio, score,
    advantage: known(value) && known(after) ? after - value : null,
    candidates: (candidates ?? []).map(([said, by, count, ln, ratio, u]) => ({ completion: text(said), by, count, ln, ratio, u })),
  });
  const swing = (episode) => {
    const size = (turn) => (known(turn[4]) && known(turn[5]) ? Math.abs(turn[5] - turn[4]) : -1);
    return episode.turns.reduce((most, turn) => Math.max(most, size(turn)), -1);
  };
  const hasMalformed = (episode) => episode.turns.some((turn) => !known(turn[2]));

  // ---- elements

  /** Makes an element. `properties` become attributes, except `text`, which becomes its text. */
  function el(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === 'text') element.textContent = value;
      else if (known(value)) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  function drawn(tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  const decimals = (number, digits = 3) => number.toFixed(digits).replace('-', '\u2212');
  const plural = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;

  // ---- the address

  let state = {};
  function readAddress() {
    const [view, query] = location.hash.slice(1).split('?');
    const given = new URLSearchParams(query ?? '');
    state = { view: view === 'episodes' ? 'episodes' : 'summary' };
    for (const field of FIELDS) state[field] = given.get(field) ?? '';
    state.turn = Math.max(0, (Number.parseInt(state.turn, 10) || 1) - 1);
  }
  function writeAddress(push) {
    const query = new URLSearchParams();
    for (const field of FIELDS) {
      const value = field === 'turn' ? (state.turn > 0 ? String(state.turn + 1) : '') : state[field];
      if (value) query.set(field, value);
    }
    const rest = query.toString();
    const address = `#${state.view}${rest ? `?${rest}` : ''}`;
    if (address !== location.hash) history[push ? 'pushState' : 'replaceState'](null, '', address);
  }
  /** Changes the state and shows it. */
  function go(change, push = false) {
    Object.assign(state, change);
    show();
    writeAddress(push);
  }

  /** Changes the filters. If the current episode is no longer listed, the first listed episode is shown. */
  function narrow(change) {
    Object.assign(state, change);
    showList();
    const keeps = listed.length === 0 || listed.some((episode) => episode.name === state.at);
    go(keeps ? {} : { at: listed[0].name, turn: 0, beside: '' });
  }

  // ---- filters and order

  const SORTS = {
    '': ['in order', null],
    few: ['turns, few first', (a, b) => a.turns.length - b.turns.length],
    many: ['turns, many first', (a, b) => b.turns.length - a.turns.length],
    disagreement: ['policies disagree', (a, b) => b.game.disagreement - a.game.disagreement],
    swing: ['largest |U \u2212 V|', (a, b) => b.swing - a.swing],
  };
  const OUTCOME_FILTERS = {
    not_won: ['not won', (episode) => episode.outcome !== 'success' && episode.outcome !== 'env_failed'],
    malformed: ['malformed turns', hasMalformed],
    disagree: ['won by some only', (episode) => episode.game.disagreement > 0],
  };
  function fill(select, all, options) {
    select.append(el('option', { value: '', text: all }));
    for (const [value, label] of options) select.append(el('option', { value, text: label }));
    select.hidden = options.length < 2;
    select.addEventListener('change', () => narrow({ [select.id]: select.value }));
  }
  function fillFilters() {
    const present = (values) => [...new Set(values)].filter(known);
    const outcomes = Object.keys(OUTCOMES).filter((outcome) => episodes.some((episode) => episode.outcome === outcome));
    const named = present(games.map((game) => game.type)).sort();
    fill(byId('store'), 'all policies', stores.map((store) => [store.file, storeTitle(store)]));
    fill(byId('split'), 'all splits', present(games.map((game) => game.split)).map((split) => [split, split]));
    fill(byId('type'), 'all tasks', named.map((type) => [type, type.replaceAll('_', ' ')]));
    fill(byId('outcome'), 'all outcomes', [
      ...outcomes.map((outcome) => [outcome, OUTCOMES[outcome]]),
      ...Object.entries(OUTCOME_FILTERS).map(([value, [label]]) => [value, label]),
    ]);
    const sort = byId('sort');
    for (const [value, [label]] of Object.entries(SORTS)) sort.append(el('option', { value, text: label }));
    sort.addEventListener('change', () => go({ sort: sort.value }));
    byId('q').addEventListener('input', () => narrow({ q: byId('q').value }));
    byId('filters').addEventListener('submit', (event) => event.preventDefault());
  }
  /** The title of a store. If two stores have the same title, the file name is added. */
  function storeTitle(store) {
    const twins = stores.filter((other) => other.title === store.title);
    return twins.length > 1 ? `${store.title} (${store.file})` : store.title;
  }
  function matching() {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = OUTCOME_FILTERS[state.outcome]?.[1] ?? ((episode) => episode.outcome === state.outcome);
    const found = episodes.filter((episode) =>
      (!state.store || episode.store.file === state.store)
      && (!state.split || episode.game.split === state.split)
      && (!state.type || episode.game.type === state.type)
      && (!state.outcome || outcome(episode))
      && words.every((word) => episode.game.words.includes(word) || (word.length > 5 && episode.game.hash.startsWith(word))));
    const order = SORTS[state.sort]?.[1];
    if (state.sort === 'swing') for (const episode of found) episode.swing ??= swing(episode);
    return order ? found.sort(order) : found;
  }

  // ---- the list: only visible rows are elements of the page

  let listed = [];
  let listedFor = null;
  const list = byId('list');
  const rows = byId('rows');
  function showList() {
    const key = ['store', 'split', 'type', 'outcome', 'q', 'sort'].map((field) => state[field]).join('\n');
    if (key === listedFor) return;
    const isFirst = listedFor === null;
    listedFor = key;
    listed = matching();
    rows.style.height = `${listed.length * ROW}px`;
    if (!isFirst) list.scrollTop = 0;
    for (const field of ['store', 'split', 'type', 'outcome', 'sort', 'q']) {
      if (byId(field).value !== state[field]) byId(field).value = state[field];
    }
    const all = plural(episodes.length, 'episode');
    byId('count').textContent = listed.length === episodes.length ? all : `${listed.length} of ${all}`;
    document.body.dataset.rows = listed.length;
  }
  function showRows() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const last = Math.min(listed.length, first + Math.ceil(list.clientHeight / ROW) + 9);
    rows.replaceChildren(...listed.slice(first, last).map((episode, index) => row(episode, first + index)));
    const at = listed.findIndex((episode) => episode.name === state.at);
    if (at >= first && at < last) list.setAttribute('aria-activedescendant', `row-${at}`);
    else list.removeAttribute('aria-activedescendant');
  }
  function row(episode, place) {
    const { game } = episode;
    const element = el('div', {
      'role': 'option', 'id': `row-${place}`, 'class': 'row',
      'aria-selected': String(episode.name === state.at), 'aria-setsize': listed.length, 'aria-posinset': place + 1,
    },
    mark(episode.outcome),
    el('span', { class: 'sentence', text: game.sentence, title: game.id }),
    el('span', { class: 'turns', text: plural(episode.turns.length, 'turn') }),
    el('span', { class: 'of', text: `${storeTitle(episode.store)} \u00b7 ${game.split}` }),
    game.ended > 1 ? el('span', { class: 'won', text: `${game.won}/${game.ended} won`, title: 'policies that won this game' }) : null);
    element.style.top = `${place * ROW}px`;
    element.addEventListener('click', () => go({ at: episode.name, turn: 0 }));
    return element;
  }
  function mark(outcome) {
    const sign = { success: '\u2713', env_failed: '!' }[outcome] ?? '\u00d7';
    return el('span', { class: `mark ${outcome}`, title: OUTCOMES[outcome], role: 'img', 'aria-label': OUTCOMES[outcome], text: sign });
  }
  function scrollListTo(name) {
    const at = listed.findIndex((episode) => episode.name === name);
    if (at < 0) return;
    if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
    else if ((at + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * ROW - list.clientHeight;
  }
  let awaited = false;
  list.addEventListener('scroll', () => {
    if (awaited) return;
    awaited = true;
    requestAnimationFrame(() => { awaited = false; showRows(); });
  });

  // ---- one episode, or two side by side

  const pane = byId('episode');
  let shown = null;
  function showEpisode() {
    const episode = byName.get(state.at);
    const other = episode && byName.get(state.beside);
    const beside = other && other.game === episode.game && other !== episode ? other : null;
    const key = `${state.at}\n${beside ? state.beside : ''}`;
    const { dataset } = document.body;
    dataset.at = episode ? episode.name : '';
    dataset.beside = beside ? beside.name : '';
    if (shown?.key !== key) {
      delete dataset.differs;
      shown = { key, episode, beside, turns: Math.max(episode?.turns.length ?? 0, beside?.turns.length ?? 0) };
      if (!episode) pane.replaceChildren(el('p', { class: 'note', text: 'No episode matches.' }));
      else pane.replaceChildren(heading(episode, beside), ...(beside ? sideBySide(episode, beside) : alone(episode)));
      pane.scrollTop = 0;
      const chip = pane.querySelector('.strip [aria-pressed="true"]'); // scroll to the middle if a sweep has many
      if (chip) chip.parentElement.scrollTop = chip.offsetTop - chip.parentElement.clientHeight / 2;
    }
    showTurn();
  }
  function showTurn() {
    state.turn = Math.min(state.turn, Math.max(0, shown.turns - 1));
    document.body.dataset.turn = state.turn + 1;
    for (const element of pane.querySelectorAll('[data-turn]')) {
      const isCurrent = Number(element.dataset.turn) === state.turn;
      element.classList.toggle('current', isCurrent);
      if (isCurrent && element.classList.contains('line')) {
        element.setAttribute('aria-current', 'step');
        if (state.turn > 0 || pane.scrollTop > 0) element.scrollIntoView({ block: 'nearest' });
      } else element.removeAttribute('aria-current');
    }
    if (state.turn === 0) pane.scrollTop = 0;
  }
  function heading(episode, beside) {
    const { game } = episode;
    const facts = [game.split, game.type?.replaceAll('_', ' ')].filter(Boolean).join(' \u00b7 ');
    return el('div', { class: 'heading' },
      el('h2', { text: game.sentence }),
      el('p', { class: 'meta' }, el('span', { text: facts }), el('code', { text: game.id, title: `SHA-256 ${game.hash}` }),
        game.episodes.length > 1 ? besideSelect(episode, beside) : null),
      game.episodes.length > 1 ? strip(episode, beside) : null);
  }
  /** The outcome of this game for every policy. */
  function strip(episode, beside) {
    const chip = (other) => {
      const isThis = other === episode;
      const button = el('button', {
        'type': 'button', 'class': 'chip', 'aria-pressed': String(isThis || other === beside),
        'title': isThis ? other.store.protocol : `click to show; Shift-click to show side by side. ${other.store.protocol}`,
      }, mark(other.outcome), el('span', { text: storeTitle(other.store) }), el('small', { text: other.turns.length }));
      button.addEventListener('click', (event) => {
        if (event.shiftKey && !isThis) go({ beside: other.name, turn: 0 });
        else go({ at: other.name, beside: '', store: state.store && other.store.file });
      });
      return button;
    };
    const { won, ended } = episode.game;
    return el('div', { class: 'strip' }, el('span', { class: 'label', text: `${won} of ${ended} won` }), ...episode.game.episodes.map(chip));
  }
  function besideSelect(episode, beside) {
    const select = el('select', { 'id': 'beside', 'aria-label': 'Side by side with' }, el('option', { value: '', text: 'side by side with\u2026' }),
      ...othersOf(episode).map((other) => el('option', { value: other.name, text: storeTitle(other.store) })));
    select.value = beside ? beside.name : '';
    select.addEventListener('change', () => go({ beside: select.value, turn: 0 }));
    return select;
  }
  const othersOf = (episode) => episode.game.episodes.filter((other) => other !== episode);

  function alone(episode) {
    const turns = episode.turns.map(turnOf);
    return [
      summary(episode, turns, 1),
      el('ol', { class: 'transcript' }, ...turns.map((turn, n) => line(n, turnBlock(turn, n, episode.store.score)))),
      ending(episode),
    ];
  }
  function sideBySide(left, right) {
    const [a, b] = [left, right].map((episode) => episode.turns.map(turnOf));
    const count = Math.max(a.length, b.length);
    const differs = Array.from({ length: count }, (_, n) => n).find((n) => a[n]?.completion !== b[n]?.completion);
    if (differs !== undefined) document.body.dataset.differs = differs + 1;
    const lines = Array.from({ length: count }, (_, n) => {
      const cells = [[a[n], left], [b[n], right]].map(([turn, episode]) =>
        (turn ? turnBlock(turn, n, episode.store.score) : el('div', { class: 'turn over' })));
      const element = line(n, ...cells);
      element.classList.toggle('differs', n === differs);
      if (n === differs) element.prepend(el('p', { class: 'banner', text: `turn ${n + 1}: the first that differs` }));
      return element;
    });
    const both = (make) => el('div', { class: 'pair' }, make(left, a, 2), make(right, b, 2));
    const same = differs === undefined ? el('p', { class: 'banner', text: 'no turn differs' }) : null;
    return [both(summary), ...(same ? [same] : []), el('ol', { class: 'transcript' }, ...lines), both(ending)];
  }
  function line(n, ...cells) {
    const element = el('li', { 'class': cells.length > 1 ? 'line pair' : 'line', 'data-turn': n }, ...cells);
    element.addEventListener('click', () => { if (!String(getSelection())) go({ turn: n }); });
    return element;
  }
  /** Policy, outcome, cost, and V and U over the turns. */
  function summary(episode, turns, columns) {
    const [completions, tokens, commands] = episode.spent;
    const spent = completions > 0
      ? `${plural(completions, 'completion')}, ${plural(tokens, 'token')}, ${plural(commands, 'command')}` : null;
    return el('div', { class: 'summary' },
      el('p', { class: 'who' },
        el('span', { class: `badge ${episode.outcome}`, text: OUTCOMES[episode.outcome] }),
        el('b', { text: storeTitle(episode.store), title: episode.store.protocol }),
        el('span', { text: plural(turns.length, 'turn') }),
        spent ? el('span', { text: spent, title: 'cost of this episode, including candidates that were not selected' }) : null,
        el('span', { text: `${decimals(episode.seconds, 1)} s` })),
      plot(turns, columns));
  }
  function ending(episode) {
    return el('div', { class: 'ending' },
      text(episode.last) ? el('p', { class: 'observation', text: text(episode.last) }) : null,
      el('p', { class: `badge ${episode.outcome}`, text: OUTCOMES[episode.outcome] }),
      known(episode.failure) ? el('pre', { text: text(episode.failure) }) : null);
  }
  function turnBlock(turn, n, score) {
    return el('div', { class: 'turn' },
      el('span', { class: 'number', text: n + 1 }),
      el('div', { class: 'said' },
        el('p', { class: 'observation', text: turn.observation }),
        el('p', { class: turn.malformed ? 'completion malformed' : 'completion' },
          el('code', { text: turn.completion || '\u2205', title: turn.completion ? null : 'empty completion' }),
          turn.malformed ? el('span', { class: 'badge failure', text: 'malformed', title: 'the completion contains no command' }) : null,
          turn.action ? el('span', { class: 'action', text: `\u2192 ${turn.action}`, title: 'the command in the completion' }) : null),
        alternatives(turn, score)),
      numbers(turn));
  }
  function numbers(turn) {
    const shownNumbers = [
      ['V', turn.value, 'value before the completion, reward units'],
      ['U', turn.after, 'value after the completion, reward units'],
      ['A', turn.advantage, 'advantage U \u2212 V, reward units'],
      ['ln \u03c0', turn.logprob, 'log-probability of the completion, nats'],
      ['\u03c1', turn.logRatio, 'log-ratio ln \u03c0 \u2212 ln \u03c0_ref of the completion, nats'],
      ['score', turn.score, 'process score: the share of a failed episode that could still be won'],
    ].filter(([, number]) => known(number));
    const entry = ([name, number, title]) => {
      const sign = name === 'A' ? (number > 0.02 ? 'up' : number < -0.02 ? 'down' : '') : '';
      return el('div', { title }, el('dt', { text: name }), el('dd', { class: sign, text: decimals(number) }));
    };
    return el('dl', { class: 'numbers' }, ...shownNumbers.map(entry));
  }
  /** The candidates of a turn. Old logs have no counts; then every count is 1 and the column is hidden. */
  function alternatives(turn, score) {
    const all = turn.candidates;
    if (all.length < 2) return null;
    const chosen = all.filter((candidate) => candidate.completion === turn.completion)
      .reduce((best, candidate) => (!best || candidate.by > best.by ? candidate : best), null);
    const hasCounts = all.some((candidate) => candidate.count > 1);
    const columns = [
      [score, (candidate) => candidate.by],
      ['ln \u03c0', (candidate) => candidate.ln],
      ['\u03c1', (candidate) => candidate.ratio],
      ['U', (candidate) => candidate.u],
    ].filter(([name, of], n) => (n === 0 || name !== score) && all.some((candidate) => known(of(candidate))));
    const cell = (number) => el('td', { text: known(number) ? decimals(number) : '' });
    const entry = (candidate) => el('tr', { class: candidate === chosen ? 'chosen' : null },
      el('th', { scope: 'row' },
        el('span', { class: 'dot', text: candidate === chosen ? '\u25cf' : '\u25cb', title: candidate === chosen ? 'selected' : 'not selected' }),
        el('code', { text: candidate.completion || '\u2205' })),
      hasCounts ? el('td', { text: `\u00d7${candidate.count}` }) : null,
      ...columns.map(([, of]) => cell(of(candidate))));
    const sorted = [...all].sort((a, b) => b.by - a.by);
    return el('table', { class: 'alternatives' },
      el('thead', {}, el('tr', {}, el('th', { scope: 'col', text: `${all.length} sampled` }),
        hasCounts ? el('th', { scope: 'col', text: 'times' }) : null,
        ...columns.map(([name]) => el('th', { scope: 'col', text: name })))),
      el('tbody', {}, ...sorted.map(entry)));
  }

  /** Plots V before and U after every completion over the turns. */
  function plot(turns, columns) {
    const width = Math.max(240, Math.min(900, Math.floor((pane.clientWidth - 40 - 18 * (columns - 1)) / columns)));
    const height = 96;
    const [left, right, top, bottom] = [22, 4, 14, 16];
    const vs = turns.map((turn, n) => [n, turn.value]).filter(([, value]) => known(value));
    const us = turns.map((turn, n) => [n + 0.5, turn.after]).filter(([, after]) => known(after));
    if (vs.length + us.length === 0) return null;
    const all = [...vs, ...us].map(([, number]) => number);
    const [low, high] = [Math.min(0, ...all), Math.max(1, ...all)];
    const x = (n) => left + ((n + 0.25) / turns.length) * (width - left - right);
    const y = (number) => top + ((high - number) / (high - low)) * (height - top - bottom);
    const path = (points) => points.map(([n, number], i) => `${i ? 'L' : 'M'}${x(n).toFixed(1)} ${y(number).toFixed(1)}`).join('');
    const step = (width - left - right) / turns.length;
    const band = (n) => {
      const area = drawn('rect', { 'x': x(n) - step / 4, 'y': top, 'width': step, 'height': height - top - bottom, 'class': 'band', 'data-turn': n });
      area.addEventListener('click', (event) => { event.stopPropagation(); go({ turn: n }); });
      return area;
    };
    const label = (at, words, extra = {}) => {
      const element = drawn('text', { x: at[0], y: at[1], ...extra });
      element.textContent = words;
      return element;
    };
    const every = Math.ceil(turns.length / (width / 28));
    const last = (points) => (points.length ? decimals(points.at(-1)[1], 2) : 'none');
    return drawn('svg', {
      'class': 'plot', width, height, 'viewBox': `0 0 ${width} ${height}`, 'role': 'img',
      'aria-label': `V and U over ${turns.length} turns; at the end V ${last(vs)}, U ${last(us)}`,
    },
    ...turns.map((_, n) => band(n)),
    ...[0, 1].map((number) => drawn('line', { x1: left, x2: width - right, y1: y(number), y2: y(number), class: 'grid' })),
    ...[0, 1].map((number) => label([left - 6, y(number) + 3.5], String(number), { 'text-anchor': 'end' })),
    ...turns.map((_, n) => n).filter((n) => (n + 1) % every === 0 || n === 0)
      .map((n) => label([x(n + 0.25), height - 3], String(n + 1), { 'text-anchor': 'middle' })),
    label([left, 9], '\u25cf V before', { class: 'v' }),
    label([left + 66, 9], '\u25cf U after', { class: 'u' }),
    drawn('path', { d: path(vs), class: 'v' }),
    drawn('path', { d: path(us), class: 'u' }),
    ...vs.map(([n, value]) => drawn('circle', { cx: x(n), cy: y(value), r: 2.2, class: 'v' })),
    ...us.map(([n, after]) => drawn('circle', { cx: x(n), cy: y(after), r: 2.2, class: 'u' })));
  }

  // ---- views and keys

  function show() {
    if (episodes.length === 0) state.view = 'summary';
    const isEpisodes = state.view === 'episodes';
    byId('view-summary').hidden = isEpisodes;
    byId('view-episodes').hidden = !isEpisodes;
    for (const view of ['summary', 'episodes']) {
      if (view === state.view) byId(`to-${view}`).setAttribute('aria-current', 'page');
      else byId(`to-${view}`).removeAttribute('aria-current');
    }
    document.body.dataset.view = state.view;
    if (!isEpisodes) return;
    showList();
    if (!byName.has(state.at)) Object.assign(state, { at: listed[0]?.name ?? '', turn: 0, beside: '' });
    scrollListTo(state.at);
    showRows();
    showEpisode();
  }
  function toEpisode(by) {
    const at = listed.findIndex((episode) => episode.name === state.at);
    const next = listed[at < 0 ? 0 : Math.min(listed.length - 1, Math.max(0, at + by))];
    if (next) go({ at: next.name, turn: 0, beside: next.name === state.at ? state.beside : besideOf(next) });
  }
  /** The episode of the same store, if the next game is shown side by side too. */
  function besideOf(next) {
    const store = byName.get(state.beside)?.store;
    return next.game.episodes.find((other) => other.store === store && other !== next)?.name ?? '';
  }
  function toggleBeside() {
    const { episode } = shown;
    if (state.beside || !episode) return go({ beside: '' });
    const others = othersOf(episode);
    const other = others.find((one) => one.store.policy === episode.store.policy)
      ?? others.find((one) => (one.outcome === 'success') !== (episode.outcome === 'success')) ?? others[0];
    if (other) go({ beside: other.name });
  }
  const help = byId('help');
  const EVERYWHERE = {
    '?': () => help.showModal(),
    's': () => go({ view: 'summary' }, true),
    'e': () => go({ view: 'episodes' }, true),
    '/': () => { go({ view: 'episodes' }); byId('q').focus(); byId('q').select(); },
  };
  const AMONG_EPISODES = {
    j: () => toEpisode(1),
    k: () => toEpisode(-1),
    ArrowDown: () => toEpisode(1),
    ArrowUp: () => toEpisode(-1),
    ArrowRight: () => go({ turn: state.turn + 1 }),
    ArrowLeft: () => go({ turn: Math.max(0, state.turn - 1) }),
    b: toggleBeside,
    d: () => { if (document.body.dataset.differs) go({ turn: Number(document.body.dataset.differs) - 1 }); },
    Escape: () => go({ beside: '' }),
  };
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const field = event.target.closest?.('input, select');
    if (field) {
      const leaves = event.key === 'Escape' || (field.id === 'q' && ['Enter', 'ArrowDown'].includes(event.key));
      if (!leaves) return;
      if (event.key === 'Escape' && field.id === 'q') go({ q: '' });
      event.preventDefault();
      list.focus();
      return;
    }
    const act = EVERYWHERE[event.key] ?? (state.view === 'episodes' ? AMONG_EPISODES[event.key] : undefined);
    if (!act) return;
    event.preventDefault();
    act();
  });
  byId('to-help').addEventListener('click', () => help.showModal());
  addEventListener('hashchange', () => { readAddress(); show(); });
  addEventListener('popstate', () => { readAddress(); show(); });
  addEventListener('resize', () => { shown = null; show(); });

  fillFilters();
  byId('to-episodes').toggleAttribute('hidden', episodes.length === 0);
  readAddress();
  show();
  document.body.dataset.loaded = performance.now().toFixed(0);
})();
