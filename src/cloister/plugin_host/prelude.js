// What runs in a plugin's JavaScript before its own code does: values in and out, `console`, `host`, the clock.
//
// What it needs of the language it keeps in variables of its own, so that a plugin that changes the language's own
// objects gets wrong results at the worst. Nothing relies on it: the host judges whatever leaves the process.
//
// Its value is the one function that is called from outside: run(what, name, text, now). An answer is JSON, made in one
// piece, as the binding cannot read a string that was put together of several: a letter, and what goes with it.
//   v value                    V  a value with {"$": [kind, ...]} in it for what JSON lacks
//   s number of a stream       .  its end
//   e [name, message, stack]   n  what of it cannot be sent
//   m no memory                0  null was thrown, as it also is where there is no memory for an exception
//   f no such function
//   w a promise, see `settled` p  it is not settled
(() => {
  "use strict";
  const { __ask: askHost, __pull: pull, __push: push, __print: print, __frozen: frozen } = globalThis;
  for (const name of ["__ask", "__pull", "__push", "__print", "__frozen"]) delete globalThis[name];

  const { apply, construct } = Reflect;
  const { stringify, parse } = JSON;
  const { isArray } = Array;
  const { isSafeInteger, isInteger, isFinite } = Number;
  const { keys, getPrototypeOf, getOwnPropertyDescriptor, hasOwn, is } = Object;
  const { isView } = ArrayBuffer;
  const uncurried = (f) => (self, ...rest) => apply(f, self, rest);
  const getter = (from, name) => uncurried(getOwnPropertyDescriptor(from, name).get);
  const plainObject = Object.prototype;
  const RealDate = Date, RealError = Error, RealMap = Map, RealProxy = Proxy, RealPromise = Promise, RealString = String;
  const Bytes = Uint8Array, Buffer = ArrayBuffer, Big = BigInt;
  const { iterator, asyncIterator } = Symbol;
  const timeOf = uncurried(RealDate.prototype.getTime);
  const resolved = uncurried(RealPromise.resolve), then = uncurried(RealPromise.prototype.then);
  const inHex = uncurried(Big.prototype.toString);
  const toBase64 = uncurried(Bytes.prototype.toBase64), setFromBase64 = uncurried(Bytes.prototype.setFromBase64);
  const mapGet = uncurried(RealMap.prototype.get), mapSet = uncurried(RealMap.prototype.set);
  const mapDelete = uncurried(RealMap.prototype.delete), mapSize = getter(RealMap.prototype, "size");
  const typedArrays = getPrototypeOf(Bytes.prototype);
  const kindOf = getter(typedArrays, Symbol.toStringTag);
  const viewOf = {
    typed: ["buffer", "byteOffset", "byteLength"].map((name) => getter(typedArrays, name)),
    data: ["buffer", "byteOffset", "byteLength"].map((name) => getter(DataView.prototype, name)),
  };
  const ARRAYS = {
    __proto__: null, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array,
    BigInt64Array, BigUint64Array, Float32Array, Float64Array,
  };

  const DEEPEST = 100; // as in cloister.ipc.values
  const PIECE = 3 * 256 * 1024; // bytes of a buffer that pass at once
  const MOST_STREAMS = 64;
  const FIRST_DATE = -62135596800000, LAST_DATE = 253402300799999; // the years 1 to 9999, which Python has
  let now = 0;

  class Unsendable {
    constructor(what) { this.what = what; }
  }

  // ── values out ─────────────────────────────────────────────────────────────────────────────────────────────────

  const encoded = (root, name) => {
    const path = [];
    let special = false, buffers = 0;
    const where = () => {
      let text = name;
      for (let i = 0; i < path.length; i++) text += `[${stringify(path[i])}]`;
      return text;
    };
    const refuse = (what) => { throw new Unsendable(`${where()} is ${what}, which does not travel`); };
    const tagged = (kind, content, more) => {
      special = true;
      return { __proto__: null, $: [kind, content, more] };
    };
    const buffer = (array, kind) => {
      const index = buffers++;
      for (let at = 0; at === 0 || at < array.length; at += PIECE)
        if (push(index, at, toBase64(new Bytes(array.buffer, array.byteOffset + at, atMost(array.length - at)))) === null)
          throw new RealError("it could not be sent");
      return tagged("b", index, kind);
    };
    const plain = (value, depth) => {
      switch (typeof value) {
        case "string": case "boolean": return value;
        case "undefined": return null;
        case "number":
          if (isSafeInteger(value) ? !is(value, -0) : isFinite(value) && !isInteger(value)) return value;
          return tagged("f", is(value, -0) ? "-0" : RealString(value));
        case "bigint": return tagged("i", inHex(value, 16));
        case "object": break;
        default: refuse(`a ${typeof value}`);
      }
      if (value === null) return null;
      path.length = depth;
      if (depth >= DEEPEST) throw new Unsendable(`${name} nests deeper than ${DEEPEST} (or holds itself)`);
      if (isArray(value)) {
        const made = [];
        for (let i = 0; i < value.length; i++) {
          path[depth] = i;
          made[i] = plain(value[i], depth + 1);
        }
        path.length = depth;
        return made;
      }
      if (isView(value)) {
        const kind = kindOf(value) ?? "Uint8Array";
        const [memory, start, length] = kindOf(value) === undefined ? viewOf.data : viewOf.typed;
        if (!(kind in ARRAYS)) refuse(`a ${kind}`);
        return buffer(new Bytes(memory(value), start(value), length(value)), kindOf(value) ?? "ArrayBuffer");
      }
      if (value instanceof Buffer) return buffer(new Bytes(value), "ArrayBuffer");
      if (value instanceof RealDate) {
        const time = timeOf(value);
        if (!(time >= FIRST_DATE && time <= LAST_DATE)) refuse("a Date that is none, or not of the years 1 to 9999");
        return tagged("d", time);
      }
      const prototype = getPrototypeOf(value);
      if (prototype !== plainObject && prototype !== null) refuse(`a ${className(value)}`);
      const made = { __proto__: null }, names = keys(value);
      for (let i = 0; i < names.length; i++) {
        const key = names[i];
        path[depth] = key;
        if (key[0] === "$") special = true;
        made[key[0] === "$" ? `$${key}` : key] = plain(value[key], depth + 1);
      }
      path.length = depth;
      return made;
    };
    const made = plain(root, 0);
    return stringify([special ? "V" : "v", made]);
  };

  const atMost = (count) => (count < PIECE ? count : PIECE);

  const className = (value) => {
    const made = value.constructor;
    return typeof made === "function" && typeof made.name === "string" && made.name ? made.name : "object of a class";
  };

  // ── values in ──────────────────────────────────────────────────────────────────────────────────────────────────

  const decoded = (text) => {
    const value = parse(text.slice(1));
    return text[0] === "V" ? revived(value) : value;
  };

  const revived = (value) => {
    if (typeof value !== "object" || value === null) return value;
    if (isArray(value)) {
      for (let i = 0; i < value.length; i++) value[i] = revived(value[i]);
      return value;
    }
    if (hasOwn(value, "$")) return ofTag(value.$[0], value.$[1], value.$[2], value.$[3]);
    const made = {}, names = keys(value);
    for (let i = 0; i < names.length; i++) {
      const key = names[i][0] === "$" ? names[i].slice(1) : names[i];
      const each = { value: revived(value[names[i]]), writable: true, enumerable: true, configurable: true };
      Object.defineProperty(made, key, each); // "__proto__" too
    }
    return made;
  };

  const ofTag = (kind, content, name, size) => {
    if (kind === "f") return +content;
    if (kind === "i") return content[0] === "-" ? -Big(`0x${content.slice(1)}`) : Big(`0x${content}`);
    if (kind === "d") return new RealDate(content);
    const bytes = new Bytes(size);
    for (let at = 0; at < size; ) {
      const piece = pull(content, at);
      if (piece === null) throw new RealError("it could not be received");
      at += setFromBase64(new Bytes(bytes.buffer, at), piece).written;
    }
    return new ARRAYS[name](bytes.buffer);
  };

  // ── what a plugin sees ─────────────────────────────────────────────────────────────────────────────────────────

  const shown = (value) => {
    if (typeof value === "string") return value;
    try {
      if (value instanceof RealError) return `${value}\n${value.stack}`;
      return (typeof value === "object" ? stringify(value) : undefined) ?? RealString(value);
    } catch {
      return RealString(typeof value);
    }
  };
  const says = (toStderr) => (...values) => {
    let text = "";
    for (let i = 0; i < values.length; i++) text += (i ? " " : "") + shown(values[i]);
    print(toStderr, stringify(`${text}\n`));
  };
  globalThis.console = { log: says(false), info: says(false), debug: says(false), warn: says(true), error: says(true) };

  globalThis.host = new RealProxy({ __proto__: null }, {
    get: (_, name) => {
      if (typeof name !== "string" || name === "then") return undefined; // it is no promise
      return (...values) => {
        let text;
        try {
          text = askHost(stringify(name), encoded(values, "args"));
        } catch (error) {
          throw error instanceof Unsendable ? failure("NotSendable", error.what) : error;
        }
        if (text === null) throw failure("HostFunctionError", "the host could not be asked");
        if (text[0] !== "e") return decoded(text);
        const told = parse(text.slice(1));
        throw failure(told[0], told[1]);
      };
    },
    set: () => false,
    deleteProperty: () => false,
  });
  const failure = (name, message) => {
    const error = new RealError(message);
    Object.defineProperty(error, "name", { value: name, writable: true, configurable: true });
    return error;
  };

  if (frozen) {
    const Frozen = function Date(...values) {
      if (new.target === undefined) return RealString(new RealDate(now));
      return construct(RealDate, values.length ? values : [now], new.target === Frozen ? RealDate : new.target);
    };
    Object.defineProperties(Frozen, Object.getOwnPropertyDescriptors(RealDate));
    Frozen.now = () => now;
    RealDate.prototype.constructor = Frozen;
    globalThis.Date = Frozen;
    globalThis.performance = { now: () => 0, timeOrigin: 0 };
  }

  // ── what is asked ──────────────────────────────────────────────────────────────────────────────────────────────

  const streams = new RealMap();
  let functions = {}, number = 0, waiting = null;

  const reply = (letter, content) => stringify([letter, content]);

  const failed = (error) => {
    if (error === null) return reply("0");
    if (error instanceof Unsendable) return reply("n", error.what);
    let name = typeof error, message = "", stack = "";
    try {
      if (typeof error === "object" && error !== null && "message" in error) {
        name = RealString(error.name);
        message = RealString(error.message);
        stack = RealString(error.stack ?? "");
      } else {
        message = RealString(error);
      }
    } catch {
      message = "(its message could not be made)";
    }
    if (name === "InternalError" && message === "out of memory") return reply("m");
    return reply("e", [name, message, stack]);
  };

  // `next` makes an answer of the value; of a promise's, once that is settled.
  const finish = (value, next) => {
    if (typeof value !== "object" || value === null || typeof value.then !== "function") return next(value);
    const mine = (waiting = { answer: null });
    const settle = (answer) => (result) => {
      try {
        mine.answer = answer(result);
      } catch (error) {
        mine.answer = failed(error);
      }
    };
    then(resolved(RealPromise, value), settle(next), settle(failed));
    return reply("w");
  };

  const given = (value) => {
    const isStream = typeof value === "object" && value !== null && typeof value.next === "function"
      && (iterator in value || asyncIterator in value);
    if (!isStream) return encoded(value, "result");
    if (mapSize(streams) >= MOST_STREAMS) throw new RealError(`${MOST_STREAMS} streams are open; close some`);
    mapSet(streams, ++number, value);
    return reply("s", number);
  };

  // Below this a stack is the prelude's, and not shown.
  function __plugin(called, values) {
    return called(...values);
  }

  const OPERATIONS = {
    __proto__: null,
    evaluated: (promise) => finish(promise, () => reply(".")),
    exported: (exports) => {
      functions = exports;
      const names = [], all = keys(exports);
      for (let i = 0; i < all.length; i++) if (typeof exports[all[i]] === "function") names[names.length] = all[i];
      return encoded(names, "exports");
    },
    call: (name, text) => {
      const called = parse(name);
      if (!hasOwn(functions, called) || typeof functions[called] !== "function") return reply("f");
      return finish(__plugin(functions[called], decoded(text)), given);
    },
    next: (which) => {
      const stream = mapGet(streams, which);
      mapDelete(streams, which);
      if (stream === undefined) return reply(".");
      return finish(stream.next(), (step) => {
        if (step.done) return reply(".");
        const answer = encoded(step.value, "result");
        mapSet(streams, which, stream);
        return answer;
      });
    },
    close: (which) => {
      const stream = mapGet(streams, which);
      mapDelete(streams, which);
      return typeof stream?.return === "function" ? finish(stream.return(), () => reply(".")) : reply(".");
    },
    settled: () => waiting?.answer ?? reply("p"),
  };

  return function __cloister(what, name, text, time) {
    now = time;
    try {
      return OPERATIONS[what](name, text);
    } catch (error) {
      return failed(error);
    }
  };
})()
