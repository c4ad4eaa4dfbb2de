// Each machine is a file, in a folder per plugin: $MACHINES/MARK/ID. An empty file is a broken machine.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Exit statuses of the protocol, besides 0 for success. The plugin treats any other status as a bug.
const (
	unknownVerb = 64
	wrongSpec   = 65
	tryAgain    = 75
)

type spec struct {
	Properties json.RawMessage   `json:"properties"`
	Tags       map[string]string `json:"tags"`
	Init       string            `json:"init"`
	LogicalID  *string           `json:"logical_id"`
}

type request struct {
	Verb       string                     `json:"verb"`
	Mark       string                     `json:"mark"`
	ID         string                     `json:"id"`
	Spec       spec                       `json:"spec"`
	Instances  []struct{ ID string }      `json:"instances"`
	Properties map[string]json.RawMessage `json:"properties"`
}

type machine struct {
	ID         string            `json:"id"`
	Handle     string            `json:"handle"`
	Functional bool              `json:"functional"`
	Reason     string            `json:"reason,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	LogicalID  *string           `json:"logical_id,omitempty"`
}

func main() {
	var asked request
	check(json.NewDecoder(os.Stdin).Decode(&asked))
	folder := filepath.Join(os.Getenv("MACHINES"), asked.Mark)
	switch asked.Verb {
	case "validate":
		validate(asked.Properties)
	case "provision":
		answer(provision(folder, asked.ID, asked.Spec))
	case "destroy":
		answer(destroy(folder, asked))
	case "observe":
		answer(observe(folder))
	default:
		os.Exit(unknownVerb)
	}
}

func validate(properties map[string]json.RawMessage) {
	size, isThere := properties["size"]
	if text := string(size); isThere && text != `"small"` && text != `"large"` {
		answer(map[string]string{"field": "size", "problem": `expected "small" or "large", got ` + text})
		os.Exit(wrongSpec)
	}
}

func provision(folder, id string, wanted spec) any {
	file := filepath.Join(folder, id)
	// After a crash, the plugin repeats the request: the machine may already exist.
	if _, err := os.Stat(file); os.IsNotExist(err) {
		check(os.MkdirAll(folder, 0o700))
		data, err := json.Marshal(wanted)
		check(err)
		part := filepath.Join(folder, "."+id)
		check(os.WriteFile(part, data, 0o600))
		check(os.Rename(part, file)) // atomic: a crash leaves no half-written machine
	}
	return map[string]string{"handle": "file-" + id}
}

func destroy(folder string, asked request) any {
	destroyed, failed := []string{}, map[string]any{}
	for _, instance := range asked.Instances {
		err := os.Remove(filepath.Join(folder, instance.ID))
		if err == nil || os.IsNotExist(err) {
			destroyed = append(destroyed, instance.ID)
		} else {
			failed[instance.ID] = map[string]any{"problem": err.Error(), "after": 5}
		}
	}
	return map[string]any{"destroyed": destroyed, "failed": failed}
}

func observe(folder string) any {
	entries, err := os.ReadDir(folder)
	if !os.IsNotExist(err) {
		check(err)
	}
	machines := []machine{}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			machines = append(machines, readMachine(folder, entry.Name()))
		}
	}
	return map[string]any{"machines": machines}
}

func readMachine(folder, id string) machine {
	data, err := os.ReadFile(filepath.Join(folder, id))
	check(err)
	if len(data) == 0 {
		return machine{ID: id, Handle: "file-" + id, Reason: "its file is empty"}
	}
	var kept spec
	check(json.Unmarshal(data, &kept))
	return machine{ID: id, Handle: "file-" + id, Functional: true, Tags: kept.Tags, LogicalID: kept.LogicalID}
}

func answer(result any) {
	check(json.NewEncoder(os.Stdout).Encode(result))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(tryAgain)
	}
}
