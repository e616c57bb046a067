"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const pick = document.getElementById("user"), ids = document.getElementById("ids"), box = document.getElementById("answers");
  const made = (tag, text, cls) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (cls) e.className = cls;
    return e;
  };
  const title = i => {
    const e = made("bdi", data.items[i] || "(no name)");
    e.title = data.items[i];
    return e;
  };
  const put = (parent, ...children) => { parent.append(...children); return parent; };
  const number = x => (Number.isInteger(x) ? String(x) : Math.abs(x) < 1000 ? x.toPrecision(3) : String(Math.round(x))).replace("-", "−");
  const table = (caption, rows) => put(made("table"), made("caption", caption), put(made("tbody"), ...rows));
  const line = (item, ...cells) => {
    const head = put(made("th"), title(item));
    head.scope = "row";
    return put(made("tr"), head, ...cells);
  };
  const cell = (text, cls) => made("td", text, cls);

  const reasons = why => {
    const td = made("td", undefined, "why");
    why.forEach(([item, share], j) => put(td, ...(j ? [document.createTextNode(", ")] : []), title(item), document.createTextNode(" +" + number(share))));
    return td;
  };

  const quoted = id => /^[\w.-]+$/.test(id) ? id : "'" + id.replaceAll("'", "'\\''") + "'";

  const show = id => {
    const user = data.users.find(u => u.id === id.trim());
    box.replaceChildren();
    if (!user) {
      const say = data.all ? "There is no such user." : "This user is not among those on this page; ask on the command line:";
      put(box, made("p", say, "muted"));
      if (!data.all) put(box, put(made("pre"), made("code", "proxfactor recommend " + data.run + " --user " + quoted(id))));
      return;
    }
    const best = user.best.map(([item, score, why, low, high]) => {
      const cells = [cell(number(score), "value")];
      if (low !== undefined) cells.push(cell(number(low) + " – " + number(high), "value range"));
      if (data.explains) cells.push(reasons(why));
      return line(item, ...cells);
    });
    const has = user.has.map(([item, value]) => data.ratings ? line(item, cell(number(value), "value")) : line(item));
    const left = put(made("div", undefined, "card scroll"), table("Recommended" + (user.best[0] && user.best[0].length > 3 ? ", with 90 % intervals" : "") + (data.explains ? ", and what speaks for it" : ""), best));
    left.firstChild.className = "wide best";
    const right = put(made("div", undefined, "card"), table(data.ratings ? "Rated best, of " + user.count : "Has, of " + user.count, has));
    put(box, left, right);
  };

  for (const user of data.users) {
    const option = made("option");
    option.value = user.id;
    ids.append(option);
  }
  pick.addEventListener("input", () => show(pick.value));
  document.getElementById("another").addEventListener("click", () => {
    pick.value = data.users[Math.floor(Math.random() * data.users.length)].id;
    show(pick.value);
  });
  if (data.users.length) { pick.value = data.users[0].id; show(pick.value); }
})();
