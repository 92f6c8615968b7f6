package zun

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// apiError becomes {"errors": [{"request_id", "code", "status", "title", "detail", "links"}]}, where code is
// "container." and the dashed name of the Python exception (zun.api.http_error, zun.api.middleware.parsable_error).
type apiError struct {
	status        int
	code          string
	title, detail string
}

func (e *apiError) Error() string { return e.title }

func fail(status int, code, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return &apiError{status: status, code: code, title: text, detail: text}
}

func invalidValue(format string, args ...any) error {
	return fail(http.StatusBadRequest, "invalid-value", format, args...)
}

func schemaError(format string, args ...any) error {
	return fail(http.StatusBadRequest, "schema-validation-error", format, args...)
}

func forbidden(rule string) error {
	return fail(http.StatusForbidden, "policy-not-authorized", "Policy doesn't allow %s to be performed.", rule)
}

func noContainer(ident string) error {
	return fail(http.StatusNotFound, "container-not-found", "Container %s could not be found.", ident)
}

// bare is an error of the web framework: no code, no text, no version headers.
func bare(status int) error { return &apiError{status: status} }

// broken is what Zun says where it did not expect something.
func (s *Server) broken() error {
	return &apiError{
		status: http.StatusInternalServerError, title: "Internal Server Error",
		detail: "Your request could not be handled because of a problem in the server. Error Correlation id is: " + s.deps.NewID(),
	}
}

func (s *Server) writeError(w http.ResponseWriter, err error) {
	var known *apiError
	if !errors.As(err, &known) {
		s.deps.Log.WithError(err).Error("pocket zun")
		errors.As(s.broken(), &known)
	}
	if known.title == "" {
		for _, name := range versionHeaders {
			w.Header().Del(name)
		}
	}
	wire.WriteJSON(w, known.status, map[string]any{"errors": []any{map[string]any{
		"request_id": "", "code": "container." + known.code, "status": known.status, "title": known.title,
		"detail": known.detail, "links": []any{},
	}}})
}
