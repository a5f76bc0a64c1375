// The errors users meet. Each has a stable `code` and says what was expected, what came, and what to do.

export class RootsError extends Error {
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** Shapes, axes or ranks that do not fit the operation. */
export class ShapeError extends RootsError {
  constructor(message: string) {
    super('ERR_SHAPE', message);
  }
}

/** An element type the operation does not take. */
export class DTypeError extends RootsError {
  constructor(message: string) {
    super('ERR_DTYPE', message);
  }
}

/** A device that does not exist or cannot be used here. */
export class DeviceError extends RootsError {
  constructor(message: string) {
    super('ERR_DEVICE', message);
  }
}

/** A tensor was used after `dispose()`, or after the `tidy()` that owned it. */
export class DisposedError extends RootsError {
  constructor(message: string) {
    super('ERR_ROOTS_DISPOSED', message);
  }
}

/** An option or argument outside what is allowed. */
export class OptionError extends RootsError {
  constructor(message: string) {
    super('ERR_OPTION', message);
  }
}

/** A file that is missing, unreadable, malformed, or over a limit. */
export class FileError extends RootsError {}

/** A model configuration that cannot be built: unknown architecture, missing key, sizes that do not divide. */
export class ConfigError extends RootsError {
  constructor(message: string) {
    super('ERR_CONFIG', message);
  }
}

/** Training data or labels that cannot be used. */
export class DataError extends RootsError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DATA', message, options);
  }
}
