package nova

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// apiError becomes Nova's body {"<name>": {"code", "message"}}.
type apiError struct {
	status  int
	message string
}

func (e *apiError) Error() string { return e.message }

func fail(status int, format string, args ...any) error {
	return &apiError{status: status, message: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return fail(http.StatusBadRequest, format, args...)
}
func notFound(format string, args ...any) error { return fail(http.StatusNotFound, format, args...) }
func conflict(format string, args ...any) error { return fail(http.StatusConflict, format, args...) }

// malformed is what Nova says of a body that it cannot read.
func malformed() error { return badRequest("Malformed request body") }

func forbidden(rule string) error {
	return fail(http.StatusForbidden, "Policy doesn't allow %s to be performed.", rule)
}

// faultNames are nova.api.openstack.wsgi.Fault's; everything else is a computeFault.
var faultNames = map[int]string{
	http.StatusBadRequest: "badRequest", http.StatusUnauthorized: "unauthorized", http.StatusForbidden: "forbidden",
	http.StatusNotFound: "itemNotFound", http.StatusMethodNotAllowed: "badMethod", http.StatusConflict: "conflictingRequest",
	http.StatusRequestEntityTooLarge: "overLimit", http.StatusUnsupportedMediaType: "badMediaType",
	http.StatusNotImplemented: "notImplemented", http.StatusServiceUnavailable: "serviceUnavailable",
}

func writeError(w http.ResponseWriter, err error) {
	known := &apiError{
		status: http.StatusInternalServerError,
		message: "Unexpected API Error. Please report this at http://bugs.launchpad.net/nova/ and attach the Nova API log if possible.\n" +
			"<class 'Exception'>",
	}
	if asked, isOurs := errors.AsType[*apiError](err); isOurs {
		known = asked
	}
	name := faultNames[known.status]
	if name == "" {
		name = "computeFault"
	}
	raw, err := json.Marshal(map[string]any{name: map[string]any{"code": known.status, "message": known.message}})
	if err != nil {
		raw = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(known.status)
	_, _ = w.Write(raw) // the client went away: nobody is left to tell
}
