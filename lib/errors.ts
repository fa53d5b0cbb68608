/**
 * Every error that vltune throws on purpose. `code` is stable and part of the public API; `message` names what was wrong
 * (option, file, row, field or tensor), what was expected and what came.
 */
export type ErrorCode =
  | 'ERR_USAGE' // an option or argument
  | 'ERR_BAD_DATA' // a dataset file, row or field
  | 'ERR_BAD_CHECKPOINT' // a model folder, config or tensor
  | 'ERR_BAD_ADAPTER' // an adapter folder, config or tensor
  | 'ERR_NOT_FOUND' // a file, folder or hub id
  | 'ERR_IO' // reading or writing failed (disk full, no permission)
  | 'ERR_UNSUPPORTED' // understood, but not built here
  | 'ERR_NAN' // the loss or the gradient norm is not finite
  | 'ERR_CANCELLED' // an AbortSignal fired
  | 'ERR_PEER' // another process of the same run failed or is gone
  // thrown by native code:
  | 'ERR_SHAPE'
  | 'ERR_DTYPE'
  | 'ERR_ARGUMENT'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_NO_DEVICE'
  | 'ERR_DEVICE' // a kernel could not be launched, or the GPU was lost
  | 'ERR_INTERNAL';

export class VltuneError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'VltuneError';
    this.code = code;
  }
}

/** Codes that are the user's to mend: the command line prints the message alone and exits with 2. */
const USER_CODES: ReadonlySet<string> = new Set([
  'ERR_USAGE',
  'ERR_BAD_DATA',
  'ERR_BAD_CHECKPOINT',
  'ERR_BAD_ADAPTER',
  'ERR_NOT_FOUND',
  'ERR_UNSUPPORTED',
]);

export function isUserError(error: unknown): boolean {
  return error instanceof Error && USER_CODES.has((error as { code?: string }).code ?? '');
}
