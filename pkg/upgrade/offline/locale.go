package offline

// locale says what LC_ALL=C.UTF-8 says: that locale is C with other characters. Asked for as a whole, each of the thousands
// of programs of an upgrade opens the files of twelve categories, which are two thirds of all that a trace sees.
func locale() []string {
	out := []string{"LC_ALL=", "LC_CTYPE=C.UTF-8"}
	for _, category := range []string{
		"NUMERIC", "TIME", "COLLATE", "MONETARY", "MESSAGES", "PAPER", "NAME", "ADDRESS", "TELEPHONE", "MEASUREMENT", "IDENTIFICATION",
	} {
		out = append(out, "LC_"+category+"=C")
	}
	return out
}
