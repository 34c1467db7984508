// What is said in the same words and numbers as by the command line, and how elements are made: what comes from the
// supervisor is put in as text alone, since names on disks are whatever somebody wrote there.

export const element = (name, fields = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(fields)) {
        if (value !== undefined && value !== null) made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
};

/// Sets a text where it is another one: what stays the same isn't read out again.
export const say = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
};

export const setClass = (node, name) => {
    if (node.getAttribute('class') !== name) node.setAttribute('class', name);
};

/// So many entries in a list, each of one kind.
export const entries = (list, count, make) => {
    while (list.children.length > count) list.lastElementChild.remove();
    while (list.children.length < count) list.append(make());
    return [...list.children];
};

const threeDigits = (bytes, base, units) => {
    if (!(bytes >= base)) return `${Math.round(bytes) || 0} B`;
    let [value, unit] = [bytes / base, 0];
    while (value >= 999.5 && unit + 1 < units.length) [value, unit] = [value / base, unit + 1];
    return `${value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2)} ${units[unit]}`;
};

export const size = bytes => threeDigits(bytes, 1024, ['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB']);
export const rate = bytes => `${threeDigits(bytes, 1000, ['kB', 'MB', 'GB', 'TB', 'PB', 'EB'])}/s`;

export const time = us => {
    if (us === null) return '-';
    if (us < 1000) return `${Math.round(us)} µs`;
    return us < 1e6 ? `${(us / 1000).toFixed(1)} ms` : `${(us / 1e6).toFixed(2)} s`;
};

export const spoken = secs => {
    const s = Math.max(0, Math.floor(secs));
    if (s < 1) return 'less than a second';
    if (s === 1) return '1 second';
    if (s < 120) return `${s} seconds`;
    if (s < 7200) return `${Math.floor(s / 60)} minutes`;
    return s < 48 * 3600 ? `${Math.floor(s / 3600)} hours` : `${Math.floor(s / 86400)} days`;
};

/// In UTC, as everywhere else.
export const calendar = secs => {
    const date = new Date(secs * 1000);
    return Number.isNaN(date.getTime()) ? '-' : date.toISOString().slice(0, 19).replace('T', ' ');
};

export const count = (number, what) => `${number} ${what}${number === 1 ? '' : 's'}`;

const listed = words => (words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} or ${words[words.length - 1]}`);

export const poolSurvives = pool => {
    if (!['online', 'degraded'].includes(stateOf(pool).word)) return '-';
    return pool.survives === 0 ? 'no failure' : count(pool.survives, 'failure');
};

export const volumeSurvives = volume => {
    const labels = Object.entries(volume.survives_labels || {}).map(([kind, number]) => `${number} ${kind}`);
    return listed([count(volume.survives_disks || 0, 'disk'), count(volume.survives_nodes || 0, 'machine'), ...labels]);
};

/// Where a pool, disk, volume or job stands, and why.
export const stateOf = thing => {
    const owner = thing.state === 'foreign' && thing.owner ? `owned by ${thing.owner}` : '';
    return { word: thing.state || 'unknown', why: thing.why || owner };
};

const LEVELS = {
    well: ['online', 'usable', 'running', 'on', 'done'],
    warn: ['degraded', 'out', 'offline', 'rolled-back', 'opening', 'waiting'],
    bad: ['missing', 'refused', 'suspended', 'fenced', 'incomplete', 'gone'],
};

/// How bad a state is: `well`, `warn`, `bad`, or `off` where it is nobody's trouble.
export const levelOf = word => Object.keys(LEVELS).find(level => LEVELS[level].includes(word)) || 'off';

const BADNESS = ['off', 'well', 'warn', 'bad'];
export const worst = levels => BADNESS[Math.max(0, ...levels.map(level => BADNESS.indexOf(level)))];
