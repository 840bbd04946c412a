// Protobuf by hand: the two tiny requests, and as much of the answers as it takes to see that they are right.

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

func putField(b []byte, field int, value uint64) []byte {
	return binary.AppendUvarint(append(b, byte(field<<3)), value)
}

// appendList encodes ListStudentCoursesRequest with its gRPC prefix.
func appendList(b []byte, student int64) []byte {
	return prefixed(b, func(b []byte) []byte { return putField(b, 1, uint64(student)) })
}

// appendEnroll encodes EnrollStudentRequest with its gRPC prefix; requestID may be empty.
func appendEnroll(b []byte, student, course int64, requestID string) []byte {
	return prefixed(b, func(b []byte) []byte {
		b = putField(b, 1, uint64(student))
		var packed [binary.MaxVarintLen64]byte
		n := binary.PutUvarint(packed[:], uint64(course))
		b = append(append(b, 2<<3|2, byte(n)), packed[:n]...)
		if requestID != "" {
			b = append(append(b, 5<<3|2, byte(len(requestID))), requestID...)
		}
		return b
	})
}

// appendExplain encodes ExplainEnrollmentRequest with its gRPC prefix.
func appendExplain(b []byte, student int64, courses []int64) []byte {
	return prefixed(b, func(b []byte) []byte {
		b = putField(b, 1, uint64(student))
		packed := make([]byte, 0, 3*len(courses))
		for _, course := range courses {
			packed = binary.AppendUvarint(packed, uint64(course))
		}
		return append(binary.AppendUvarint(append(b, 2<<3|2), uint64(len(packed))), packed...)
	})
}

// coursesFrom is so many courses from one on; after the last comes the first.
func coursesFrom(first int64, count, courses uint64) []int64 {
	found := make([]int64, count)
	for i := range found {
		found[i] = int64((uint64(first)-1+uint64(i))%courses) + 1
	}
	return found
}

func prefixed(b []byte, body func([]byte) []byte) []byte {
	start := len(b)
	b = body(append(b, 0, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-5))
	return b
}

// uuid formats a version 4 UUID from two random numbers.
func uuid(high, low uint64) string {
	high = high&^0xf000 | 0x4000
	low = low&^(3<<62) | 1<<63
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", high>>32, high>>16&0xffff, high&0xffff, low>>48, low&0xffffffffffff)
}

// fields walks a message and calls visit for each field: value for varints, data for strings and messages.
func fields(b []byte, visit func(field int, value uint64, data []byte) bool) bool {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return false
		}
		b = b[n:]
		value, n := uint64(0), 0
		var data []byte
		switch tag & 7 {
		case 0:
			if value, n = binary.Uvarint(b); n <= 0 {
				return false
			}
		case 2:
			size, m := binary.Uvarint(b)
			if m <= 0 || size > uint64(len(b)-m) {
				return false
			}
			data, n = b[m:m+int(size)], m+int(size)
		default:
			return false // the API has no fixed-width fields
		}
		if !visit(int(tag>>3), value, data) {
			return false
		}
		b = b[n:]
	}
	return true
}

// message strips the gRPC prefix; false unless exactly one uncompressed message stands there.
func message(b []byte) ([]byte, bool) {
	if len(b) < 5 || b[0] != 0 || int(binary.BigEndian.Uint32(b[1:])) != len(b)-5 {
		return nil, false
	}
	return b[5:], true
}

// enrollmentIs checks one Enrollment: the student, the course unless 0, state ENROLLED, course details filled.
func enrollmentIs(b []byte, student, course int64) bool {
	right, detailed := 0, false
	whole := fields(b, func(field int, value uint64, data []byte) bool {
		switch field {
		case 1:
			right += same(value, student)
		case 2:
			right += same(value, course) | same(0, course)
		case 3:
			right += same(value, 1)
		case 9:
			detailed = len(data) > 0
		}
		return true
	})
	return whole && detailed && right == 3
}

func same(value uint64, wanted int64) int {
	if value == uint64(wanted) {
		return 1
	}
	return 0
}

// listIsRight checks ListStudentCoursesResponse: the student asked for, and a plausible number of enrollments.
func listIsRight(b []byte, student int64, least int) bool {
	b, ok := message(b)
	if !ok || len(b) == 0 {
		return false
	}
	count, owner := 0, false
	whole := fields(b, func(field int, _ uint64, data []byte) bool {
		switch field {
		case 1:
			owner = fields(data, func(field int, value uint64, _ []byte) bool {
				return field != 1 || value == uint64(student)
			})
		case 2:
			count++
			return enrollmentIs(data, student, 0)
		}
		return true
	})
	return whole && owner && count >= least && count <= 1000
}

// enrollIsRight checks EnrollStudentResponse: exactly one enrollment, of this pair, with a seat.
func enrollIsRight(b []byte, student, course int64) bool {
	b, ok := message(b)
	count := 0
	return ok && fields(b, func(field int, _ uint64, data []byte) bool {
		count++
		return field == 1 && count == 1 && enrollmentIs(data, student, course)
	}) && count == 1
}

// explainIsRight checks ExplainEnrollmentResponse: one explanation for each course, in order, with an outcome or a reason
// against it.
func explainIsRight(b []byte, courses []int64) bool {
	b, ok := message(b)
	count := 0
	return ok && fields(b, func(field int, _ uint64, data []byte) bool {
		count++
		return field == 1 && count <= len(courses) && explanationIs(data, courses[count-1])
	}) && count == len(courses)
}

func explanationIs(b []byte, course int64) bool {
	right, said := 0, false
	whole := fields(b, func(field int, value uint64, data []byte) bool {
		switch field {
		case 1:
			right += same(value, course)
		case 2:
			said = said || value == 1 || value == 2
		case 4:
			said = said || len(data) > 0
		}
		return true
	})
	return whole && said && right == 1
}

// echoIsRight checks that the bytes came back.
func echoIsRight(b, sent []byte) bool { return bytes.Equal(b, sent) }
