package wire

import (
	"html"
	"net/http"
	"strconv"
	"strings"
)

// explanations are the sentences that WebOb puts before the detail of an error
// (https://github.com/Pylons/webob/blob/1.8.6/src/webob/exc.py).
var explanations = map[int]string{
	http.StatusBadRequest:                   "The server could not comply with the request since it is either malformed or otherwise incorrect.",
	http.StatusUnauthorized:                 "This server could not verify that you are authorized to access the document you requested. Either you supplied the wrong credentials (e.g., bad password), or your browser does not understand how to supply the credentials required.",
	http.StatusForbidden:                    "Access was denied to this resource.",
	http.StatusNotFound:                     "The resource could not be found.",
	http.StatusMethodNotAllowed:             "The method specified is not allowed for this resource.",
	http.StatusNotAcceptable:                "The resource could not be generated that was acceptable to your browser (content of type .",
	http.StatusConflict:                     "There was a conflict when trying to complete your request.",
	http.StatusGone:                         "This resource is no longer available.  No forwarding address is given.",
	http.StatusRequestEntityTooLarge:        "The body of your request was too large for this server.",
	http.StatusUnsupportedMediaType:         "The request media type is not supported by this server.",
	http.StatusRequestedRangeNotSatisfiable: "The Range requested is not available.",
	http.StatusServiceUnavailable:           "The server is currently unavailable. Please try again at a later time.",
}

// title is WebOb's, where it is not Go's.
func title(status int) string {
	switch status {
	case http.StatusRequestEntityTooLarge:
		return "Request Entity Too Large"
	case http.StatusRequestedRangeNotSatisfiable:
		return "Requested Range Not Satisfiable"
	}
	return http.StatusText(status)
}

// WebobError answers an error as Placement does: JSON made by format of the status' title and the text where the client
// takes JSON alone, or says nothing or "*/*"; else HTML.
func WebobError(w http.ResponseWriter, r *http.Request, status int, detail string, format func(title, text string) any) {
	accept := r.Header.Get("Accept")
	if accept == "" || accept == "*/*" {
		accept = "application/json"
	}
	text := explanations[status] + "\n\n " + strings.ReplaceAll(detail, "\n", " ") + "  "
	webob(w, accept, status, explanations[status], detail, format(title(status), text))
}

// WebobExplained answers an error as Glance does: WebOb's sentence with a detail, or an explanation in the sentence's
// place. It is a plain text for a client that says nothing of what it takes.
func WebobExplained(w http.ResponseWriter, r *http.Request, status int, explanation, detail string) {
	if explanation == "" {
		explanation = explanations[status]
	}
	webob(w, r.Header.Get("Accept"), status, explanation, detail, map[string]string{
		"message": explanation + "<br /><br />\n" + detail + "\n\n", "code": strconv.Itoa(status) + " " + title(status), "title": title(status),
	})
}

// webob writes the form that WebOb would choose: it offers HTML first, then JSON, and has plain text for the rest.
func webob(w http.ResponseWriter, accept string, status int, explanation, detail string, body any) {
	head := strconv.Itoa(status) + " " + title(status)
	switch {
	case strings.Contains(accept, "text/html") || strings.Contains(accept, "*/*"):
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte("<html>\n <head>\n  <title>" + head + "</title>\n </head>\n <body>\n  <h1>" + head + "</h1>\n  " +
			html.EscapeString(explanation) + "<br /><br />\n" + html.EscapeString(detail) + "\n\n\n </body>\n</html>"))
	case strings.Contains(accept, "application/json"):
		WriteJSON(w, status, body)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(head + "\n\n" + explanation + "\n\n " + detail + "  "))
	}
}
