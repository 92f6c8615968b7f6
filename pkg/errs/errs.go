// Package errs holds the one error type that crosses rooms: what went wrong, whose fault it is,
// where exactly, and whether trying again can help.
//
// Adapters turn foreign errors (SQL, AMQP, HTTP) into an *Error at their edge, the domain returns them,
// and pkg/api turns them into the API-SIG error body
// (https://specs.openstack.org/openstack/api-wg/guidelines/errors.html).
package errs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind says who can do something about an error. Each kind is one HTTP status.
type Kind int

// The kinds, with the HTTP status that the API answers.
const (
	Internal        Kind = iota // 500: a defect or an unknown fault; the cause stays behind the request id
	Invalid                     // 400: the caller's input is wrong; Where names the place
	Unauthenticated             // 401
	Forbidden                   // 403
	NotFound                    // 404
	NotAcceptable               // 406: a microversion that is not served
	Conflict                    // 409: the thing's state forbids it now
	TooLarge                    // 413: quota, disk or body size
	Unavailable                 // 503: an outside part is away; RetryAfter says when to come again
	Timeout                     // 504: an outside part did not answer in time
	Cancelled                   // 499: the caller went away, or a job was cancelled
)

// Where names the place of a fault in the caller's input. Empty parts are left out.
type Where struct {
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"` // counted from 1
	Field string `json:"field,omitempty"`
}

// String is "file:line: field", without the parts that are empty.
func (w Where) String() string {
	var b strings.Builder
	b.WriteString(w.File)
	if w.Line > 0 {
		if w.File == "" {
			b.WriteString("line ")
		} else {
			b.WriteByte(':')
		}
		b.WriteString(strconv.Itoa(w.Line))
	}
	if w.Field != "" {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(w.Field)
	}
	return b.String()
}

// Error is an error with a kind, a code that never changes, and a text that tells the user what to do.
type Error struct {
	Kind       Kind
	Code       string // stable, "kiln.<word>.<what>", e.g. "kiln.recipe.unknown_field"
	Detail     string // one or two sentences for the user
	Where      Where
	RetryAfter time.Duration // for Unavailable; 0 means unknown
	Cause      error         // for logs only where Kind is Internal
}

// Error is the detail with its place, and the cause behind a colon.
func (e *Error) Error() string {
	text := e.Detail
	if w := e.Where.String(); w != "" {
		text = w + ": " + text
	}
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Cause }

// New makes an error without a cause.
func New(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Wrap makes an error around a cause.
func Wrap(cause error, kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Detail: fmt.Sprintf(format, args...), Cause: cause}
}

// At sets the place and returns the same error, so that it chains after New.
func (e *Error) At(w Where) *Error {
	e.Where = w
	return e
}

// After sets RetryAfter and returns the same error.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// KindOf finds the kind of any error: that of the first *Error in its chain, Timeout for an expired
// deadline, Cancelled for a cancelled context, Internal for the rest. A nil error has no kind: Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Cancelled
	}
	return Internal
}

// CodeOf finds the stable code of an error; "kiln.internal" where it has none.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Code != "" {
		return e.Code
	}
	return "kiln.internal"
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Retryable reports whether the same call may succeed later without anybody changing anything:
// an outside part was away or slow, or Kiln met a fault that it does not know.
func Retryable(err error) bool {
	switch KindOf(err) {
	case Unavailable, Timeout, Internal, TooLarge:
		return err != nil
	}
	return false
}
