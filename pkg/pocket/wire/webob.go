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
	http.StatusUnauthorized:                 "This server could not verify that you are authorized to access the document you requested.  Either you supplied the wrong credentials (e.g., bad password), or your browser does not understand how to supply the credentials required.",
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

// WebobError answers an error as services built on WebOb do (Glance and Placement): HTML, unless the client
// prefers JSON; then format makes the body of the status' title and the text. With a nil format it is WebOb's own.
func WebobError(w http.ResponseWriter, r *http.Request, status int, detail string, format func(title, text string) any) {
	webob(w, r, status, explanations[status], detail, format)
}

// WebobExplained answers an error of which the service replaces WebOb's sentence, as Glance does; with an empty
// explanation it is WebOb's.
func WebobExplained(w http.ResponseWriter, r *http.Request, status int, explanation string) {
	if explanation == "" {
		explanation = explanations[status]
	}
	webob(w, r, status, explanation, "", nil)
}

func webob(w http.ResponseWriter, r *http.Request, status int, explanation, detail string, format func(title, text string) any) {
	name := title(status)
	head := strconv.Itoa(status) + " " + name
	if !prefersJSON(r.Header.Get("Accept")) {
		text := html.EscapeString(explanation) + "<br /><br />\n" + html.EscapeString(detail) + "\n\n"
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte("<html>\n <head>\n  <title>" + head + "</title>\n </head>\n <body>\n  <h1>" + head +
			"</h1>\n  " + text + "\n </body>\n</html>"))
		return
	}
	if format != nil {
		WriteJSON(w, status, format(name, explanation+"\n\n "+strings.ReplaceAll(detail, "\n", " ")+"  "))
		return
	}
	WriteJSON(w, status, map[string]string{
		"message": explanation + "<br /><br />\n" + detail + "\n\n", "code": head, "title": name,
	})
}

// prefersJSON: WebOb offers HTML first, so only a client that names JSON and not HTML gets it.
func prefersJSON(accept string) bool {
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}
